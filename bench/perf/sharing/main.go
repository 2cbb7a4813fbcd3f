package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// parts are what can be measured, in order.
var parts = []struct {
	name string
	run  func(context.Context, *bench) error
}{{"qos", limits}, {"cost", cost}, {"neighbour", neighbour}, {"repair", repairing}}

// rounds is how often everything is measured; tables have the medians.
const rounds = 5

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/perf/sharing:", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	root, parent string
	builds       []build
	text         strings.Builder
	started      time.Time
}

// build is a folder of binaries under the name that tables give it.
type build struct{ name, bin string }

func (b *bench) now() build { return b.builds[len(b.builds)-1] }

func run(ctx context.Context, names []string) error {
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(root, "bench/perf/sharing")); err != nil {
		return fmt.Errorf("not at the top of the tree: %w", err)
	}
	parent := os.Getenv("BENCH_DIR")
	if parent == "" {
		parent = "/var/tmp" // /tmp may be memory
	}
	builds := []build{{"this build", filepath.Join(root, "bin")}}
	if bin := os.Getenv("BEFORE"); bin != "" {
		builds = append([]build{{"before", bin}}, builds...)
	}
	for _, p := range parts {
		if len(names) > 0 && !strings.Contains(" "+strings.Join(names, " ")+" ", " "+p.name+" ") {
			continue
		}
		b := &bench{root: root, parent: parent, builds: builds, started: time.Now()}
		say("%s", p.name)
		if err := p.run(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if err := b.write(p.name); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) p(format string, args ...any) { fmt.Fprintf(&b.text, format+"\n", args...) }

// write replaces the part's text in SHARING.md; what people wrote around it stays.
func (b *bench) write(name string) error {
	path := filepath.Join(b.root, "bench/perf/SHARING.md")
	page, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	begin, end := "<!-- "+name+": written by make bench-sharing -->\n", "<!-- end of "+name+" -->\n"
	part := begin + fmt.Sprintf("\n`make bench-sharing WHAT=%s` on %s, %s, %.0f s.\n\n", name, b.started.UTC().Format("2006-01-02 15:04 UTC"), b.machine(),
		time.Since(b.started).Seconds()) + b.text.String() + "\n" + end
	before, rest, found := strings.Cut(string(page), begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		before, after = strings.TrimRight(string(page), "\n")+"\n\n", ""
	}
	fmt.Println(part)
	return os.WriteFile(path, []byte(before+part+after), 0o644)
}

func say(format string, args ...any) {
	fmt.Printf(time.Now().Format("15:04:05 ")+format+"\n", args...)
}
