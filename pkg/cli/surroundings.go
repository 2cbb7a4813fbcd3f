package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/devcluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
	"ashlar.dev/pkg/telemetry"
)

// RealSurroundings are those of the process.
func RealSurroundings() Surroundings {
	return Surroundings{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Clock: clock.System,
		Connect: connect, ConnectMembers: connectMembers,
		Dev: func(ctx context.Context, o devcluster.Options) error {
			bin, err := binaryFolder()
			if err != nil {
				return err
			}
			o.BinDir, o.Clock = bin, clock.System
			return devcluster.Run(ctx, o)
		},
		Exec:       execBeside,
		ExecOutput: outputBeside,
		Changes:    changes, DiskFiles: realDiskFiles,
	}
}

func connect(dir string) (Cluster, error) {
	f, err := devcluster.LoadFile(dir)
	if errors.Is(err, errs.ErrNotFound) {
		return nil, &hinted{err, "make one there with ashlar dev --data " + dir + ", or give the folder of another"}
	}
	if err != nil {
		return nil, err
	}
	c, err := f.Connect(clock.System, dir)
	if err != nil {
		return nil, err // not c: a nil *client.Cluster is no nil Cluster
	}
	return c, nil
}

// groupClient is a real Members.
type groupClient struct {
	*client.Members
	keeper *pki.Keeper
}

// CA is the one that signs, first among those that the operator trusts.
func (g *groupClient) CA() pki.Fingerprint {
	cas, err := pki.ReadBundle(g.keeper.Creds.Trusted())
	if err != nil {
		panic("cli: credentials without a CA: " + err.Error()) // they were made of one
	}
	return cas[0].Fingerprint
}

func (g *groupClient) OwnCAs() []byte { return g.keeper.Creds.Trusted() }

func (g *groupClient) Refresh(ctx context.Context, atAnyRate bool) (time.Time, error) {
	bundle, err := g.TrustedCAs(ctx)
	if err == nil {
		err = g.keeper.Refresh(ctx, bundle, atAnyRate)
	}
	return g.keeper.Creds.Expires(), err
}

func connectMembers(dir string) (Members, error) {
	f, err := devcluster.LoadFile(dir)
	if errors.Is(err, errs.ErrNotFound) {
		return nil, &hinted{err, "it needs the cluster.yaml of ashlar dev, cluster init or host join --role operator"}
	}
	if err != nil {
		return nil, err
	}
	creds, files, err := f.Credentials(clock.System, dir)
	if err != nil {
		return nil, err
	}
	m, err := f.ConnectMembers(clock.System, creds)
	if err != nil {
		return nil, err
	}
	return &groupClient{m, &pki.Keeper{Creds: creds, Files: files, Clock: clock.System, Log: telemetry.Discard(), Sign: m.RenewCertificate}}, nil
}

func binaryFolder() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find own binary: %w", err)
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return "", fmt.Errorf("find own binary: %w", err)
	}
	return filepath.Dir(self), nil
}

// outputBeside runs a program that lies beside ours; its standard error goes on to ours.
func outputBeside(ctx context.Context, program string, args ...string) (string, error) {
	var out bytes.Buffer
	err := runBeside(ctx, &out, program, args...)
	return strings.TrimSpace(out.String()), err
}

// execBeside runs a program that lies beside ours, and takes over its exit code.
func execBeside(ctx context.Context, program string, args ...string) error {
	return runBeside(ctx, os.Stdout, program, args...)
}

func runBeside(ctx context.Context, out io.Writer, program string, args ...string) error {
	bin, err := binaryFolder()
	if err != nil {
		return err
	}
	path := filepath.Join(bin, program)
	if _, err := os.Stat(path); err != nil {
		return &hinted{fmt.Errorf("%s is not beside ashlar: %w", program, errs.ErrNotFound), "build all of them with make build"}
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, out, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return &verdict{exit.ExitCode()}
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", program, err)
	}
	return nil
}
