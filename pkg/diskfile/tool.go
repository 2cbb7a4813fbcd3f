package diskfile

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"ashlar.dev/pkg/errs"
)

// Limits of what qemu-img is given.
const (
	inspectMemory  = 1 << 30 // bytes of address space, while it reads headers of strangers
	inspectSeconds = 30      // of CPU
	convertMemory  = 4 << 30
	sizeMax        = 64 << 40 // bytes of the disk that a file holds
	errorMax       = 400      // bytes of what it says that are shown
)

// SizeMax is the largest disk that a file may hold.
const SizeMax = uint64(sizeMax)

// Tool is qemu-img, run with limits. It and everything it starts die when ctx ends, or we do.
type Tool struct{ prlimit, qemu string }

// Find finds the programs. Errors: errs.ErrNotFound.
func Find() (*Tool, error) {
	var t Tool
	for name, path := range map[string]*string{"prlimit": &t.prlimit, "qemu-img": &t.qemu} {
		var err error
		if *path, err = exec.LookPath(name); err != nil {
			return nil, fmt.Errorf("program %s is not installed: %w", name, errs.ErrNotFound)
		}
	}
	return &t, nil
}

// Inspect gives the size in bytes of the disk that a file holds, which is as Sniff said. It looks once more that the file
// names no other. Errors: errs.ErrInvalid (the file is damaged, or refused).
func (t *Tool) Inspect(ctx context.Context, f *os.File, is Format) (uint64, error) {
	var out bytes.Buffer
	limits := []string{"--as=" + strconv.Itoa(inspectMemory), "--cpu=" + strconv.Itoa(inspectSeconds)}
	if err := t.run(ctx, limits, f, &out, "info", "-U", "--output=json", "-f", string(is), givenFile); err != nil {
		return 0, fmt.Errorf("look at the file: %w", err)
	}
	var info struct {
		Size     uint64 `json:"virtual-size"`
		Format   string `json:"format"`
		Backing  string `json:"backing-filename"`
		Crypt    bool   `json:"encrypted"`
		Specific struct {
			Data struct {
				DataFile string `json:"data-file"`
				Extents  []struct {
					Filename string `json:"filename"`
				} `json:"extents"`
			} `json:"data"`
		} `json:"format-specific"`
	}
	if err := json.Unmarshal(out.Bytes(), &info); err != nil {
		return 0, fmt.Errorf("look at the file: qemu-img said something else than JSON: %w", errs.ErrInvalid)
	}
	for _, x := range info.Specific.Data.Extents {
		if x.Filename != givenFile {
			return 0, refuse("it names another file, %.80q", x.Filename)
		}
	}
	switch {
	case info.Format != string(is) || info.Backing != "" || info.Specific.Data.DataFile != "" || info.Crypt:
		return 0, refuse("it is %.20q, not %s by itself", info.Format, is)
	case info.Size == 0:
		return 0, refuse("the disk in it has no bytes")
	case info.Size > sizeMax:
		return 0, refuse("the disk in it has %d bytes, at most %d are taken", info.Size, uint64(sizeMax))
	}
	return info.Size, nil
}

// givenFile is how the child sees the file that it is given.
const givenFile = "/dev/fd/3"

// Progress is called with how much of the work is done, in thousandths of a percent.
type Progress func(done uint32)

// ToNBD writes what a file holds to an NBD export that is all zeros and at least as large; zeros are not written.
func (t *Tool) ToNBD(ctx context.Context, f *os.File, is Format, uri string, p Progress) error {
	objects, target, err := nbdOptions(uri)
	if err != nil {
		return err
	}
	args := append(append([]string{"convert"}, objects...), "-p", "-n", "--target-is-zero", "-m", "8", "-t", "writeback", "-f", string(is), "--target-image-opts", givenFile, target)
	return t.convert(ctx, f, p, args)
}

// FromNBD writes a new file of a format that holds what an NBD export has. The file at path is made or overwritten, and
// not synced: that is the caller's. Compress: qcow2 and vmdk only.
func (t *Tool) FromNBD(ctx context.Context, uri, path string, as Format, compress bool, p Progress) error {
	objects, source, err := nbdOptions(uri)
	if err != nil {
		return err
	}
	args := append([]string{"convert"}, objects...)
	switch {
	case compress && as != QCOW2 && as != VMDK:
		return refuse("%s files are not compressed; qcow2 and vmdk are", as)
	case as == VMDK && compress:
		args = append(args, "-o", "subformat=streamOptimized")
	case as == VPC:
		args = append(args, "-o", "subformat=dynamic,force_size=on") // else its size is rounded to cylinders
	}
	if compress && as == QCOW2 {
		args = append(args, "-c")
	}
	args = append(args, "-p", "-m", "8", "-t", "writeback", "--image-opts", "-O", string(as), source, path)
	return t.convert(ctx, nil, p, args)
}

func (t *Tool) convert(ctx context.Context, f *os.File, p Progress, args []string) error {
	err := t.run(ctx, []string{"--as=" + strconv.Itoa(convertMemory)}, f, &percent{each: p}, args...)
	if err != nil {
		return fmt.Errorf("convert: %w", err)
	}
	return nil
}

// nbdOptions makes qemu's options of an NBD address: objects that must be there, and the node. A connection that breaks is
// made anew for half a minute, so that a blockd may be restarted meanwhile.
func nbdOptions(uri string) (objects []string, node string, err error) {
	u, err := url.Parse(uri)
	if err != nil {
		return nil, "", fmt.Errorf("NBD address: %w: %w", errs.ErrInvalid, err)
	}
	set := func(k, v string) { node += "," + k + "=" + strings.ReplaceAll(v, ",", ",,") }
	node = "driver=raw,file.driver=nbd"
	if socket := u.Query().Get("socket"); socket != "" {
		set("file.server.type", "unix")
		set("file.server.path", socket)
	} else {
		host, port, err := net.SplitHostPort(u.Host)
		if err != nil {
			return nil, "", fmt.Errorf("NBD address: %w: %w", errs.ErrInvalid, err)
		}
		set("file.server.type", "inet")
		set("file.server.host", host)
		set("file.server.port", port)
	}
	set("file.export", strings.TrimPrefix(u.Path, "/"))
	set("file.reconnect-delay", "30")
	if dir := u.Query().Get("tls-certificates"); dir != "" && strings.HasPrefix(u.Scheme, "nbds") {
		objects = []string{"--object", "tls-creds-x509,id=tls0,endpoint=client,dir=" + strings.ReplaceAll(dir, ",", ",,")}
		set("file.tls-creds", "tls0")
	}
	return objects, node, nil
}

// run runs qemu-img. What it says on stderr is in the error.
func (t *Tool) run(ctx context.Context, limits []string, f *os.File, out io.Writer, args ...string) error {
	cmd := exec.CommandContext(ctx, t.prlimit, append(append(limits, "--core=0", t.qemu), args...)...)
	var said tailWriter
	cmd.Stdout, cmd.Stderr = out, &said
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if f != nil {
		cmd.ExtraFiles = []*os.File{f}
	}
	runtime.LockOSThread() // the kernel sends the death signal when the thread that forked ends
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &exit):
		return fmt.Errorf("qemu-img: %s (%s): %w", said.String(), exit.ProcessState, classOf(said.String()))
	}
	return fmt.Errorf("run qemu-img: %w", err)
}

// classOf tells a full disk from a file that is wrong: qemu-img has one exit code for both.
func classOf(said string) error {
	if strings.Contains(said, "No space left on device") {
		return errs.ErrNoSpace
	}
	return errs.ErrInvalid
}

// tailWriter keeps the end of what is written.
type tailWriter struct{ b []byte }

func (w *tailWriter) Write(b []byte) (int, error) {
	w.b = append(w.b, b...)
	w.b = w.b[max(0, len(w.b)-errorMax):]
	return len(b), nil
}

func (w *tailWriter) String() string {
	return strings.Join(strings.Fields(strings.ReplaceAll(string(w.b), givenFile, "the file")), " ")
}

// percent reads what qemu-img -p prints: "    (12.34/100%)\r".
type percent struct {
	each Progress
	line []byte
}

func (p *percent) Write(b []byte) (int, error) {
	p.line = append(p.line, b...)
	for {
		n, part, _ := bufio.ScanLines(bytes.ReplaceAll(p.line, []byte("\r"), []byte("\n")), false)
		if n == 0 {
			p.line = p.line[max(0, len(p.line)-64):]
			return len(b), nil
		}
		p.line = p.line[n:]
		number, _, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(string(part)), "("), "/100%")
		if v, err := strconv.ParseFloat(number, 64); ok && err == nil && v >= 0 && v <= 100 && p.each != nil {
			p.each(uint32(v * 1000))
		}
	}
}
