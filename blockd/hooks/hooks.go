// Package hooks freezes applications on this host for a snapshot, and thaws them. What that means says the host's own
// configuration: a name and two commands; whoever orders something over the network names a hook, and no command.
//
// A freeze is thawed whatever happens: when it is ordered, when its time is up, when the command that freezes fails, when this
// process ends, and, because a small durable file says what is frozen, when the next one starts. Only a thaw that was
// ordered while the freeze still stood proves that nothing was written in between; Thaw tells. All may be called at once.
//
// The file is frozen/NAME in the daemon's folder, synced with that before the command is run and removed after the thaw. That it is
// there is all that counts; the line in it, the freeze's id in hexadecimal digits, is for people.
package hooks

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/lifecycle"
)

// Hook is one application.
type Hook struct {
	// What orders call it: lower-case letters, digits and dashes.
	Name string `yaml:"name"`
	// The program, by its path, and its arguments that stop the application from writing and bring what it has in memory to its disks. No shell runs it. It must leave nothing running behind.
	Freeze []string `yaml:"freeze"`
	// The program and its arguments that let it go on. It is run after every freeze, also one that failed, and may be run again.
	Thaw []string `yaml:"thaw"`
}

// Limits.
const (
	nameMax    = 64
	TimeoutMax = 2 * time.Minute // of one freeze
	thawWait   = 30 * time.Second
	thawAgain  = 5 * time.Second
	endedMax   = 64 // freezes that are remembered after their end
)

// ID names one freeze, whoever orders it and however often.
type ID [16]byte

// ErrEnded is the error, of class errs.ErrConflict, of a freeze that is ordered again after its end.
var ErrEnded = fmt.Errorf("the freeze has ended: %w", errs.ErrConflict)

// Options are what a Runner needs.
type Options struct {
	Hooks []Hook
	Dir   string // of the files that say what is frozen
	Clock clock.Clock
	Log   *slog.Logger
	// Run runs a command to its end and gives the last line that it printed; nil: really.
	Run func(ctx context.Context, argv []string, env ...string) (last string, err error)
}

// Runner has the hooks of a host.
type Runner struct {
	o     Options
	group *lifecycle.Group
	hooks map[string]*state
}

// state is what is known of a hook. Lock order: a hook's lock is held over its commands, so they never overlap; the
// fields behind it are of the freeze in force.
type state struct {
	Hook
	mu     sync.Mutex
	frozen ID // zero: none
	disarm context.CancelFunc
	ended  map[ID]string // freezes of before, and why they ended; empty: by order
	order  []ID          // of those, the oldest first
}

// Open makes a runner and begins to thaw what a life before left frozen.
func Open(o Options) (*Runner, error) {
	if o.Run == nil {
		o.Run = run
	}
	r := &Runner{o: o, group: lifecycle.NewGroup(context.Background()), hooks: make(map[string]*state)}
	for _, h := range o.Hooks {
		r.hooks[h.Name] = &state{Hook: h, ended: make(map[ID]string)}
	}
	if len(o.Hooks) == 0 {
		return r, nil
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of what is frozen: %w", err)
	}
	for _, s := range r.hooks {
		switch _, err := os.Stat(r.file(s)); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, fmt.Errorf("look what is frozen: %w", err)
		default:
			o.Log.Warn("an application was left frozen and is thawed now", "hook", s.Name)
			s.mu.Lock() // nothing is frozen anew before
			r.group.Go("thaw", func(ctx context.Context) error {
				defer s.mu.Unlock()
				r.thawSurely(ctx, s, ID{}, "this process started anew")
				return nil
			})
		}
	}
	return r, nil
}

// Names are those of the hooks.
func (r *Runner) Names() (names []string) {
	for _, h := range r.o.Hooks {
		names = append(names, h.Name)
	}
	return names
}

// Freeze freezes an application and returns when it is frozen. It is thawed by Thaw, or when timeout has passed since. Errors: errs.ErrNotFound (no such hook),
// errs.ErrConflict (it is frozen for somebody else, or this freeze has ended), errs.ErrTimeout; of what the command says only its last line.
// After an error nothing is frozen. Ordered again while it stands, it stays as it is.
func (r *Runner) Freeze(ctx context.Context, x ID, name string, timeout time.Duration) error {
	s := r.hooks[name]
	switch {
	case s == nil:
		return fmt.Errorf("hook %.64q: %w", name, errs.ErrNotFound)
	case timeout <= 0 || timeout > TimeoutMax || x == (ID{}):
		return fmt.Errorf("freeze for %s: %w", timeout, errs.ErrInvalid)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch why, ended := s.ended[x]; {
	case s.frozen == x:
		return nil
	case s.frozen != ID{}:
		return fmt.Errorf("hook %s is frozen for another snapshot: %w", name, errs.ErrConflict)
	case ended:
		return fmt.Errorf("hook %s, %s: %w", name, why, ErrEnded)
	case r.group.Context().Err() != nil:
		return fmt.Errorf("hook %s: %w", name, errs.ErrClosed)
	}
	// On disk first: whenever we die from here on, the next life thaws.
	if err := r.mark(s, x); err != nil {
		return err
	}
	if err := r.command(ctx, s, s.Hook.Freeze, "freeze", x, timeout); err != nil {
		r.thawSurely(ctx, s, x, "it failed")
		return err
	}
	s.frozen = x
	disarmed, disarm := context.WithCancel(context.Background())
	s.disarm = disarm
	guarded := r.group.Go("watchdog", func(life context.Context) error {
		r.watch(disarmed, life, s, x, timeout)
		return nil
	})
	if !guarded {
		r.thawSurely(ctx, s, x, "the host's daemon ended")
		return fmt.Errorf("hook %s: %w", name, errs.ErrClosed)
	}
	r.o.Log.Info("application frozen", "hook", name)
	return nil
}

// watch thaws when the time is up or we end.
func (r *Runner) watch(disarmed, life context.Context, s *state, x ID, timeout time.Duration) {
	t := r.o.Clock.NewTimer(timeout)
	defer t.Stop()
	why := "its time was up"
	select {
	case <-disarmed.Done():
		return
	case <-t.C():
	case <-life.Done():
		why = "the host's daemon ended"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen == x {
		r.o.Log.Info("application thawed by itself", "hook", s.Name, "why", why)
		r.thawSurely(life, s, x, why)
	}
}

// Thaw ends a freeze. Held: it stood until now, so nothing that was frozen was written since Freeze returned. Ordered again it
// tells the same. An error says that the command failed: it is run again until it does not.
func (r *Runner) Thaw(ctx context.Context, x ID, name string) (held bool, err error) {
	s := r.hooks[name]
	if s == nil {
		return false, fmt.Errorf("hook %.64q: %w", name, errs.ErrNotFound)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen != x || x == (ID{}) {
		why, ended := s.ended[x]
		return ended && why == "", nil
	}
	if err := r.thaw(ctx, s, x, ""); err != nil {
		r.group.Go("thaw", func(life context.Context) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.frozen == x {
				r.thawSurely(life, s, x, "")
			}
			return nil
		})
		return true, err
	}
	r.o.Log.Info("application thawed", "hook", name)
	return true, nil
}

// thawSurely thaws until it is done or, after we were told to end, once more. The lock is held.
func (r *Runner) thawSurely(ctx context.Context, s *state, x ID, why string) {
	for {
		ended := r.group.Context().Err() != nil
		err := r.thaw(ctx, s, x, why)
		if err == nil {
			return
		}
		r.o.Log.Error("application stays frozen: thaw it by hand", "hook", s.Name, "err", err)
		if ended {
			return // the next life goes on
		}
		_ = r.o.Clock.Sleep(r.group.Context(), thawAgain) // cut short it is tried once more
	}
}

// thaw runs the command once and, if it ends well, forgets the freeze. The lock is held.
func (r *Runner) thaw(ctx context.Context, s *state, x ID, why string) error {
	if s.disarm != nil {
		s.disarm()
		s.disarm = nil
	}
	// Whoever waits for us may give up: that is no reason to leave an application frozen.
	if err := r.command(context.WithoutCancel(ctx), s, s.Hook.Thaw, "thaw", x, thawWait); err != nil {
		return err
	}
	s.frozen = ID{}
	s.ended[x], s.order = why, append(s.order, x)
	if len(s.order) > endedMax {
		delete(s.ended, s.order[0])
		s.order = s.order[1:]
	}
	if err := os.Remove(r.file(s)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.o.Log.Warn("what says that an application is frozen is not removed: it is thawed once more at the next start", "hook", s.Name, "err", err)
	}
	return nil
}

func (r *Runner) command(ctx context.Context, s *state, argv []string, step string, x ID, timeout time.Duration) error {
	var watch sync.WaitGroup
	defer watch.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t := r.o.Clock.NewTimer(timeout)
	defer t.Stop()
	late := make(chan struct{})
	watch.Go(func() {
		select {
		case <-t.C():
			close(late)
			cancel()
		case <-ctx.Done():
		}
	})
	last, err := r.o.Run(ctx, argv, "ASHLAR_HOOK="+s.Name, "ASHLAR_STEP="+step, "ASHLAR_FREEZE="+hex.EncodeToString(x[:]))
	if err == nil {
		return nil
	}
	select {
	case <-late:
		err = fmt.Errorf("did not end within %s: %w", timeout, errs.ErrTimeout)
	default:
	}
	if last != "" {
		err = fmt.Errorf("%s: %w", last, err)
	}
	return fmt.Errorf("%s %s: %w", step, s.Name, err)
}

func (r *Runner) file(s *state) string { return filepath.Join(r.o.Dir, s.Name) }

// mark says durably that the hook's application may be frozen from now on.
func (r *Runner) mark(s *state, x ID) error {
	f, err := os.OpenFile(r.file(s), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		_, err = f.WriteString(hex.EncodeToString(x[:]) + "\n")
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err == nil {
		var d *os.File
		if d, err = os.Open(r.o.Dir); err == nil {
			err = errors.Join(d.Sync(), d.Close())
		}
	}
	if err != nil {
		return fmt.Errorf("note that %s is frozen: %w", s.Name, err)
	}
	return nil
}

// Close thaws what is frozen and waits for that.
func (r *Runner) Close() error {
	r.group.Cancel()
	return r.group.Wait()
}

// Validate refuses hooks that cannot be.
func Validate(all []Hook) error {
	seen := make(map[string]bool)
	for _, h := range all {
		switch {
		case !plain(h.Name) || len(h.Name) > nameMax:
			return fmt.Errorf("hooks: name %.80q: want lower-case letters, digits and dashes, at most %d: %w", h.Name, nameMax, errs.ErrInvalid)
		case seen[h.Name]:
			return fmt.Errorf("hooks: %s is there twice: %w", h.Name, errs.ErrInvalid)
		case len(h.Freeze) == 0 || len(h.Thaw) == 0 || !filepath.IsAbs(h.Freeze[0]) || !filepath.IsAbs(h.Thaw[0]):
			return fmt.Errorf("hooks: %s: freeze and thaw each name a program by its whole path, and arguments: %w", h.Name, errs.ErrInvalid)
		}
		seen[h.Name] = true
	}
	return nil
}

func plain(name string) bool {
	for _, c := range name {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return name != ""
}
