package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
)

// freezes is what the commands ask about hooks.
type freezes interface {
	SetPolicyHook(ctx context.Context, policy, disk string, h *api.HookUse) (*api.Policy, error)
	CreateFrozenSnapshot(ctx context.Context, disk, name string, h *api.HookUse) (*api.Snapshot, error)
	Hooks(ctx context.Context) (*api.ListHooksReply, error)
}

// hookFlags say what is frozen for a snapshot.
type hookFlags struct {
	Hook        string        `help:"Freeze an application meanwhile: the host it runs on, and the name of a hook in that host's blockd.yaml. It is thawed in any case." placeholder:"HOST/NAME"`
	HookTimeout time.Duration `help:"How long freezing may take, and then how long it stays frozen: 1s to 2m." default:"10s" placeholder:"10s"`
	HookAnyway  bool          `help:"Take and keep the snapshot also if the application was not frozen, or not until it was taken."`
}

// use gives it; nil: none.
func (f *hookFlags) use() (*api.HookUse, error) {
	if f.Hook == "" {
		return nil, nil
	}
	host, name, ok := strings.Cut(f.Hook, "/")
	if !ok || host == "" || name == "" {
		return nil, &hinted{fmt.Errorf("hook %q: %w", f.Hook, errs.ErrInvalid), "write it as HOST/NAME; ashlar policy hooks shows what hosts have"}
	}
	return &api.HookUse{Host: host, Name: name, TimeoutMs: uint32(f.HookTimeout / time.Millisecond), Anyway: f.HookAnyway}, nil
}

// frozen takes a snapshot with an application frozen meanwhile.
func (c *snapshotCreate) frozen(ctx context.Context, cl Cluster, h *api.HookUse) (*api.Snapshot, error) {
	x, err := cl.CreateFrozenSnapshot(ctx, c.Disk, c.Name, h)
	if err != nil && !errors.Is(err, errs.ErrExists) && !errors.Is(err, errs.ErrInvalid) {
		err = &hinted{err, "no snapshot is kept; ashlar policy hooks shows what hosts have, and the host's log what the hook said"}
	}
	return x, err
}

type policyHook struct {
	Policy string `arg:"" help:"Its name."`
	Disk   string `arg:"" help:"Name or id of a disk that is under it."`
	Off    bool   `help:"Take its hook away."`
	hookFlags
}

// Help is printed by kong below the summary.
func (c *policyHook) Help() string {
	return `Before each snapshot of the disk the host runs the hook's freeze command, and after it the thaw command; so the
snapshot has all that the application held in memory. Hooks are in the host's blockd.yaml, where only its root writes:

    hooks:
      - name: db
        freeze: [/usr/local/sbin/db-freeze]
        thaw: [/usr/local/sbin/db-thaw]

The host thaws by itself when the time is up, when freezing fails, and when blockd ends or starts anew. A snapshot that
was not taken before that is deleted and the run reported as failed, unless --hook-anyway keeps it.`
}

// Run is called by kong.
func (c *policyHook) Run(ctx context.Context, s *session) error {
	h, err := c.use()
	if err == nil && (h == nil) != c.Off {
		err = &hinted{fmt.Errorf("a hook is set with --hook or taken away with --off: %w", errs.ErrInvalid), "see ashlar policy hook --help"}
	}
	if err != nil {
		return err
	}
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		p, err := cl.SetPolicyHook(ctx, c.Policy, c.Disk, h)
		switch {
		case errors.Is(err, errs.ErrNotFound):
			return &hinted{err, "ashlar policy list and ashlar disk list show what there is"}
		case errors.Is(err, errs.ErrConflict):
			return &hinted{err, "put it under the policy first: ashlar policy apply " + c.Policy + " " + c.Disk}
		case err != nil:
			return err
		}
		return s.show(viewPolicy(p), func(w io.Writer) {
			if h == nil {
				fmt.Fprintf(w, "snapshots of %s are taken with nothing frozen\n", c.Disk)
				return
			}
			fmt.Fprintf(w, "snapshots of %s by policy %s are taken with %s frozen, for %s at most\n", c.Disk, p.Name, c.Hook, c.HookTimeout)
		})
	})
}

type policyHooks struct{}

// Run is called by kong.
func (c *policyHooks) Run(ctx context.Context, s *session) error {
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		r, err := cl.Hooks(ctx)
		if err != nil {
			return err
		}
		all := make(map[string][]string)
		for _, h := range r.Hosts {
			all[h.Host] = h.Names
		}
		return s.show(all, func(w io.Writer) {
			if len(r.Hosts) == 0 {
				fmt.Fprintln(w, "no host that is connected has hooks; see ashlar policy hook --help")
				return
			}
			var rows [][]string
			for _, h := range r.Hosts {
				rows = append(rows, []string{h.Host, strings.Join(h.Names, ", ")})
			}
			table(w, []string{"HOST", "HOOKS"}, rows)
		})
	})
}

// hookView is a hook of a disk in JSON.
type hookView struct {
	Disk      string `json:"disk"`
	Host      string `json:"host"`
	Hook      string `json:"hook"`
	TimeoutMs uint32 `json:"timeoutMs"`
	Anyway    bool   `json:"anyway"`
}

func viewHooks(p *api.Policy) (out []hookView) {
	for _, h := range p.Hooks {
		out = append(out, hookView{h.Disk, h.Use.GetHost(), h.Use.GetName(), h.Use.GetTimeoutMs(), h.Use.GetAnyway()})
	}
	return out
}

// text is a hook for people.
func (h *hookView) text() string {
	anyway := ""
	if h.Anyway {
		anyway = ", and taken anyway if that fails"
	}
	return fmt.Sprintf("%s: %s/%s, %s at most%s", h.Disk, h.Host, h.Hook, time.Duration(h.TimeoutMs)*time.Millisecond, anyway)
}
