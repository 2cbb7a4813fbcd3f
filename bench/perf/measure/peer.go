package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// A peer is another process at the other end of a TLS connection which does nothing but answer, or
// append and answer: what talking to another host costs whoever does nothing else.

const (
	peerEnv     = "ASHLAR_BENCH_PEER"
	peerBuffer  = 256 << 10
	peerRequest = 12 // bytes of a request's header: whether to append, bytes that follow, bytes wanted back
)

// gathered writes many TLS records with one system call, as pkg/rpc does.
type gathered struct {
	net.Conn
	out *bufio.Writer
}

func (g *gathered) Write(p []byte) (int, error) { return g.out.Write(p) }

// Read lets go what is gathered: whoever waits for an answer has sent all of the question.
func (g *gathered) Read(p []byte) (int, error) {
	if err := g.out.Flush(); err != nil {
		return 0, err
	}
	return g.Conn.Read(p)
}

func gather(c net.Conn) *gathered { return &gathered{c, bufio.NewWriterSize(c, 2*peerBuffer)} }

// servePeer is the peer's process: it prints its address and certificate and answers one connection.
// Requests that came together are appended together, by one write and one fdatasync, and answered together.
func servePeer(file string) error {
	cert, err := selfSigned()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	if err := pem.Encode(os.Stdout, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}); err != nil {
		return err
	}
	if err := os.Stdout.Close(); err != nil {
		return err
	}
	log, err := openLog(file)
	if err != nil {
		return err
	}
	defer log.close()
	raw, err := l.Accept()
	if err != nil {
		return err
	}
	defer func() { _ = raw.Close() }() // the process ends
	g := gather(raw)
	conn := tls.Server(g, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
	return answerAll(conn, g.out, log)
}

func answerAll(conn io.ReadWriter, out *bufio.Writer, log *appendLog) error {
	in := bufio.NewReaderSize(conn, peerBuffer)
	body, back := make([]byte, 4<<20), make([]byte, 4<<20)
	var head [peerRequest]byte
	appended, wanted := 0, 0
	for {
		if _, err := io.ReadFull(in, head[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		n, want := int(binary.LittleEndian.Uint32(head[4:])), int(binary.LittleEndian.Uint32(head[8:]))
		if n > len(body) || want > len(back)-wanted {
			return fmt.Errorf("a request of %d bytes for %d", n, want)
		}
		if _, err := io.ReadFull(in, body[:n]); err != nil {
			return err
		}
		if head[0] != 0 {
			appended += n
		}
		wanted += want
		if in.Buffered() >= peerRequest { // more is here
			continue
		}
		if err := log.append(appended); err != nil {
			return err
		}
		if _, err := conn.Write(back[:wanted]); err != nil {
			return err
		}
		if err := out.Flush(); err != nil {
			return err
		}
		appended, wanted = 0, 0
	}
}

// appendLog is a file written in advance, appended to with O_DIRECT and fdatasync.
type appendLog struct {
	f   *os.File
	mem []byte
	at  int64
}

const appendLogBytes = 64 << 20

func openLog(path string) (*appendLog, error) {
	if err := os.WriteFile(path, make([]byte, appendLogBytes), 0o600); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_DIRECT, 0)
	if err != nil {
		return nil, err
	}
	mem, err := syscall.Mmap(-1, 0, 4<<20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &appendLog{f: f, mem: mem}, f.Sync()
}

func (l *appendLog) close() { _ = errors.Join(l.f.Close(), syscall.Munmap(l.mem)) }

// append makes n bytes durable, rounded up to blocks.
func (l *appendLog) append(n int) error {
	if n == 0 {
		return nil
	}
	n = (n + 4095) &^ 4095
	if l.at+int64(n) > appendLogBytes {
		l.at = 0
	}
	if _, err := l.f.WriteAt(l.mem[:n], l.at); err != nil {
		return err
	}
	l.at += int64(n)
	return syscall.Fdatasync(int(l.f.Fd()))
}

// peer is the client's end.
type peer struct {
	cmd *exec.Cmd
	out *bufio.Writer
	tls *tls.Conn
	in  *bufio.Reader
	req []byte
}

func (b *bench) startPeer(name string) (*peer, error) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), peerEnv+"="+filepath.Join(b.dir, name))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	b.running = append(b.running, func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	said := bufio.NewReader(pipe)
	addr, err := said.ReadString('\n')
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(said)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, errors.New("the peer shows no certificate")
	}
	raw, err := net.Dial("tcp", addr[:len(addr)-1])
	if err != nil {
		return nil, err
	}
	b.running = append(b.running, func() { _ = raw.Close() })
	g := gather(raw)
	conn := tls.Client(g, &tls.Config{RootCAs: roots, ServerName: "peer", MinVersion: tls.VersionTLS13})
	if err := conn.Handshake(); err != nil {
		return nil, err
	}
	return &peer{cmd: cmd, out: g.out, tls: conn, in: bufio.NewReaderSize(conn, peerBuffer)}, nil
}

// send puts n requests on their way, each with payload bytes and for want bytes.
func (p *peer) send(n int, appends bool, payload []byte, want int) error {
	var head [peerRequest]byte
	if appends {
		head[0] = 1
	}
	binary.LittleEndian.PutUint32(head[4:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(head[8:], uint32(want))
	p.req = p.req[:0]
	for range n {
		p.req = append(append(p.req, head[:]...), payload...)
	}
	if _, err := p.tls.Write(p.req); err != nil {
		return err
	}
	return p.out.Flush()
}

// receive waits for n answers.
func (p *peer) receive(n, want int) error {
	_, err := p.in.Discard(n * want)
	return err
}

func selfSigned() (cert tls.Certificate, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return cert, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"peer"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
