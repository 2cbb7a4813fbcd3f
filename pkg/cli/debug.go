package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"gopkg.in/yaml.v3"

	"ashlar.dev/pkg/bundle"
	"ashlar.dev/pkg/devcluster"
	"ashlar.dev/pkg/enroll"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/telemetry"
)

type debugCommands struct {
	Bundle debugBundle `cmd:"" help:"Pack versions, configs, status, events, metrics, profiles and logs into one file, without secrets."`
}

type debugBundle struct {
	Out string `short:"f" help:"File to write; default: ashlar-debug-TIME.tar.gz here." placeholder:"FILE" type:"path"`
}

// Help is the long form.
func (debugBundle) Help() string {
	return `Asks the cluster for status, events and members, and the daemons of this machine (those whose
configs are in the folder given by --data) for metrics, goroutines and heap; adds the ends of their logs and
their configs. Run it on other machines too if what is wrong is there. Each piece has 10 seconds and 8 MiB;
what could not be had is named in manifest.json. Keys, tokens and passwords are not in it, but names,
addresses and sizes are: look into it before you give it away.`
}

// Run is called by kong.
func (c *debugBundle) Run(ctx context.Context, s *session) error {
	if s.flags.Data == "" {
		return s.hold(nil) // says what is missing
	}
	out := c.Out
	if out == "" {
		out = "ashlar-debug-" + s.Clock.Wall().UTC().Format("20060102T150405Z") + ".tar.gz"
	}
	f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return &hinted{fmt.Errorf("%s: %w", out, errs.ErrExists), "name another file with --out"}
	}
	if err != nil {
		return fmt.Errorf("make bundle: %w", err)
	}
	manifest, err := bundle.Write(ctx, s.Clock, f, c.pieces(s))
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(out))
	}
	view := struct {
		File  string         `json:"file"`
		Files []bundle.Entry `json:"files"`
	}{out, manifest}
	return s.show(view, func(w io.Writer) {
		n := 0
		for _, e := range manifest {
			if e.Bytes > 0 {
				n++
			}
			if e.Problem != "" {
				fmt.Fprintf(w, "not had: %s: %s\n", e.Name, e.Problem)
			}
		}
		fmt.Fprintf(w, "%d files in %s\n", n, out)
	})
}

func (c *debugBundle) pieces(s *session) []bundle.Piece {
	out := []bundle.Piece{
		bundle.JSON("version.json", func(context.Context) (any, error) {
			product, goVersion := telemetry.Version()
			return map[string]any{"ashlar": product, "go": goVersion, "os": runtime.GOOS, "arch": runtime.GOARCH, "cpus": runtime.NumCPU(),
				"at": s.Clock.Wall().UTC().Format(time.RFC3339)}, nil
		}),
		bundle.JSON("status.json", func(ctx context.Context) (v any, err error) {
			err = s.with(ctx, func(ctx context.Context, cl Cluster) error {
				r, err := cl.Status(ctx, true)
				if err == nil {
					v = viewStatus(r)
				}
				return err
			})
			return v, err
		}),
		bundle.JSON("events.json", func(ctx context.Context) (any, error) { return allEvents(ctx, s) }),
		bundle.JSON("members.json", func(ctx context.Context) (any, error) {
			views := []memberView{}
			err := s.withMembers(ctx, func(ctx context.Context, m Members) error {
				all, err := m.List(ctx)
				for _, x := range all {
					views = append(views, viewMember(x))
				}
				return err
			})
			return views, err
		}),
	}
	for _, d := range daemonsOf(s.flags.Data) {
		out = append(out, d.Pieces()...)
	}
	return out
}

// allEvents are those that are kept.
func allEvents(ctx context.Context, s *session) ([]eventView, error) {
	views := []eventView{}
	err := s.with(ctx, func(ctx context.Context, cl Cluster) error {
		last := uint64(0)
		for {
			page, _, err := cl.Events(ctx, last, time.Time{}, eventsPage, 0)
			if err != nil {
				return err
			}
			for _, e := range page {
				last = e.Seq
				views = append(views, viewEvent(e))
			}
			if len(page) < eventsPage {
				return nil
			}
		}
	})
	return views, err
}

// daemonsOf finds the daemons of this machine: those of ashlar dev, or those that joined.
func daemonsOf(dir string) []bundle.Daemon {
	var out []bundle.Daemon
	add := func(d bundle.Daemon) {
		text, err := os.ReadFile(d.Config)
		if err != nil {
			return
		}
		var c struct {
			DebugListen string `yaml:"debug_listen"`
		}
		if yaml.Unmarshal(text, &c) == nil { // a config that is no YAML is worth a look all the same
			d.Debug = c.DebugListen
		}
		out = append(out, d)
	}
	for _, x := range devcluster.Daemons(dir) {
		add(bundle.Daemon{Name: x.ID, Config: x.Config, Log: x.Log})
	}
	add(bundle.Daemon{Name: "metad", Config: filepath.Join(dir, enroll.MetadFile), Unit: "metad.service"})
	add(bundle.Daemon{Name: "blockd", Config: filepath.Join(dir, enroll.BlockdFile), Unit: "blockd.service"})
	add(bundle.Daemon{Name: "snapshotd", Config: filepath.Join(dir, enroll.SnapshotdFile), Unit: "snapshotd.service"})
	return out
}
