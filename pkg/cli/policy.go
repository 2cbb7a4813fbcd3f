package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
)

type policyCommands struct {
	Create policyCreate `cmd:"" help:"Make a policy: snapshots are taken at times of the day, and deleted when they have had their time."`
	Change policyChange `cmd:"" help:"Give a policy other rules. What was due before does not count."`
	Apply  policyApply  `cmd:"" help:"Put disks under a policy."`
	Remove policyRemove `cmd:"" help:"Take disks out of a policy. The snapshots that it made of them stay its own."`
	Hook   policyHook   `cmd:"" help:"Freeze an application while snapshots of a disk of it are taken."`
	Hooks  policyHooks  `cmd:"" help:"List the hooks that hosts have."`
	List   policyList   `cmd:"" help:"List all policies."`
	Show   policyShow   `cmd:"" help:"Show a policy and its last runs."`
	Delete policyDelete `cmd:"" help:"Forget a policy. Its snapshots stay until somebody deletes them."`
}

// policyFlags are the rules as people write them.
type policyFlags struct {
	At       []string `help:"Time of the day, UTC; give it again for more." placeholder:"HH:MM" required:""`
	Weekdays string   `help:"Days on which it runs: mon,wed or mon-fri. Every day if not given." placeholder:"DAYS"`
	Retain   string   `help:"How long a snapshot is kept: 7d, 12h, 4w. The newest of each disk is kept whatever its age." placeholder:"TIME"`
	Keep     uint32   `help:"How many snapshots of each disk are kept." placeholder:"N"`
}

// policyView is a policy in JSON.
type policyView struct {
	Name      string    `json:"name"`
	At        []string  `json:"at"` // UTC
	Weekdays  []string  `json:"weekdays"`
	RetainSec uint64    `json:"retainSeconds,omitempty"`
	Keep      uint32    `json:"keep,omitempty"`
	Disks     []string  `json:"disks"`
	Next      string    `json:"next,omitempty"`
	Snapshots uint32    `json:"snapshots"`
	Runs      []runView `json:"runs"`
	// Hooks freeze applications while snapshots of disks are taken.
	Hooks []hookView `json:"hooks,omitempty"`
}

type runView struct {
	Due      string            `json:"due"`
	State    string            `json:"state"` // "running", "done", "failed", "skipped"
	Taken    uint32            `json:"taken"`
	Failed   uint32            `json:"failed"`
	Skipped  string            `json:"skipped,omitempty"`
	Failures map[string]string `json:"failures,omitempty"` // by disk
}

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// parseDays reads mon,wed or mon-fri as bits, Sunday the lowest.
func parseDays(text string) (days uint32, err error) {
	if text == "" {
		return 1<<7 - 1, nil
	}
	day := func(s string) int {
		s = strings.ToLower(strings.TrimSpace(s))
		for d := range 7 {
			if full := strings.ToLower(time.Weekday(d).String()); len(s) >= 3 && strings.HasPrefix(full, s) {
				return d
			}
		}
		return -1
	}
	for _, part := range strings.Split(text, ",") {
		from, to, span := strings.Cut(part, "-")
		a, b := day(from), day(from)
		if span {
			b = day(to)
		}
		if a < 0 || b < 0 {
			return 0, &hinted{fmt.Errorf("days %s: %w", strconv.Quote(text), errs.ErrInvalid), "write them as mon,wed,fri or mon-fri"}
		}
		for d := a; ; d = (d + 1) % 7 {
			days |= 1 << d
			if d == b {
				break
			}
		}
	}
	return days, nil
}

// parseRetain reads 7d, 4w, 12h, 30m.
func parseRetain(text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	unit, ok := map[byte]uint64{'m': 60, 'h': 3600, 'd': 86400, 'w': 7 * 86400}[text[len(text)-1]]
	n, err := strconv.ParseUint(text[:len(text)-1], 10, 20)
	if !ok || err != nil || n == 0 {
		return 0, &hinted{fmt.Errorf("time %s: %w", strconv.Quote(text), errs.ErrInvalid), "write it as 7d, 12h or 4w"}
	}
	return n * unit, nil
}

func (f *policyFlags) rules() (*api.PolicyRules, error) {
	x := &api.PolicyRules{Keep: f.Keep}
	var err error
	for _, s := range f.At {
		t, err := time.Parse("15:04", s)
		if err != nil {
			return nil, &hinted{fmt.Errorf("time of the day %s: %w", strconv.Quote(s), errs.ErrInvalid), "write it as 02:00; it is UTC"}
		}
		x.AtMinutes = append(x.AtMinutes, uint32(t.Hour()*60+t.Minute()))
	}
	slices.Sort(x.AtMinutes)
	if x.Days, err = parseDays(f.Weekdays); err != nil {
		return nil, err
	}
	if x.RetainSeconds, err = parseRetain(f.Retain); err != nil {
		return nil, err
	}
	if x.RetainSeconds == 0 && x.Keep == 0 {
		return nil, &hinted{fmt.Errorf("nothing says when snapshots are deleted: %w", errs.ErrInvalid), "give --retain 7d, --keep 7, or both"}
	}
	return x, nil
}

func viewPolicy(p *api.Policy) policyView {
	v := policyView{Name: p.Name, At: []string{}, Weekdays: []string{}, RetainSec: p.Rules.RetainSeconds, Keep: p.Rules.Keep, Disks: append([]string{}, p.Disks...),
		Next: rfc3339(p.NextUnixMs), Snapshots: p.Snapshots, Runs: []runView{}, Hooks: viewHooks(p)}
	for _, m := range p.Rules.AtMinutes {
		v.At = append(v.At, fmt.Sprintf("%02d:%02d", m/60, m%60))
	}
	for i, d := range weekdays {
		if p.Rules.Days&(1<<i) != 0 {
			v.Weekdays = append(v.Weekdays, d)
		}
	}
	for _, r := range p.Runs {
		x := runView{Due: rfc3339(r.DueUnixMs), State: "done", Taken: r.Taken, Failed: r.Failed, Skipped: r.Skipped}
		switch {
		case r.Open:
			x.State = "running"
		case r.Skipped != "":
			x.State = "skipped"
		case r.Failed > 0:
			x.State = "failed"
		}
		for _, f := range r.Failures {
			if x.Failures == nil {
				x.Failures = make(map[string]string)
			}
			x.Failures[f.Disk] = f.Why
		}
		v.Runs = append(v.Runs, x)
	}
	return v
}

// days and kept are the rules in words.
func (v *policyView) days() string {
	if len(v.Weekdays) == 7 {
		return "every day"
	}
	return strings.Join(v.Weekdays, ",")
}

func (v *policyView) kept() string {
	var out []string
	if v.RetainSec > 0 {
		out = append(out, span(v.RetainSec))
	}
	if v.Keep > 0 {
		out = append(out, fmt.Sprintf("%d of each disk", v.Keep))
	}
	return strings.Join(out, ", ")
}

// span is a time as people write it.
func span(seconds uint64) string {
	for _, u := range []struct {
		name string
		is   uint64
	}{{"d", 86400}, {"h", 3600}, {"m", 60}} {
		if seconds%u.is == 0 {
			return fmt.Sprint(seconds/u.is, u.name)
		}
	}
	return fmt.Sprint(seconds, "s")
}

func (v *policyView) last() string {
	if len(v.Runs) == 0 {
		return "-"
	}
	r := v.Runs[len(v.Runs)-1]
	return r.Due + " " + r.State
}

func printPolicy(w io.Writer, v *policyView) {
	for _, r := range [][2]string{
		{"name", v.Name}, {"at", strings.Join(v.At, ", ") + " UTC, " + v.days()}, {"kept", v.kept()}, {"disks", strings.Join(v.Disks, ", ")},
		{"next", v.Next}, {"made", fmt.Sprintf("%d snapshots that are there", v.Snapshots)},
	} {
		fmt.Fprintf(w, "%-6s %s\n", r[0], r[1])
	}
	for _, h := range v.Hooks {
		fmt.Fprintf(w, "%-6s %s\n", "frozen", h.text())
	}
	if len(v.Runs) == 0 {
		fmt.Fprintln(w, "\nno run yet")
		return
	}
	var rows [][]string
	for _, r := range slices.Backward(v.Runs) {
		why := r.Skipped
		for disk, text := range r.Failures {
			why = disk + ": " + text
		}
		rows = append(rows, []string{r.Due, r.State, fmt.Sprint(r.Taken), fmt.Sprint(r.Failed), why})
	}
	fmt.Fprintln(w)
	table(w, []string{"RUN", "STATE", "TAKEN", "FAILED", "WHY"}, rows)
}

// explainPolicy says what to do about an error.
func explainPolicy(err error, name string) error {
	switch {
	case errors.Is(err, errs.ErrNotFound):
		return &hinted{err, "ashlar policy list and ashlar disk list show what there is"}
	case errors.Is(err, errs.ErrExists):
		return &hinted{err, "give it other rules: ashlar policy change " + name}
	}
	return err
}

// policy runs f and shows the policy that it gives.
func (s *session) policy(ctx context.Context, name string, f func(context.Context, Cluster) (*api.Policy, error), tell func(io.Writer, *policyView)) error {
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		p, err := f(ctx, cl)
		if err != nil {
			return explainPolicy(err, name)
		}
		v := viewPolicy(p)
		return s.show(v, func(w io.Writer) { tell(w, &v) })
	})
}

type policyCreate struct {
	Name string `arg:"" help:"The names of its snapshots begin with it."`
	policyFlags
}

// Run is called by kong.
func (c *policyCreate) Run(ctx context.Context, s *session) error {
	rules, err := c.rules()
	if err != nil {
		return err
	}
	return s.policy(ctx, c.Name, func(ctx context.Context, cl Cluster) (*api.Policy, error) {
		return cl.SetPolicy(ctx, c.Name, rules, false)
	},
		func(w io.Writer, v *policyView) {
			fmt.Fprintf(w, "made policy %s: at %s UTC, %s; kept: %s\n  put disks under it: ashlar policy apply %s DISK\n", v.Name, strings.Join(v.At, ", "), v.days(), v.kept(), v.Name)
		})
}

type policyChange struct {
	Name string `arg:"" help:"Of the policy."`
	policyFlags
}

// Run is called by kong.
func (c *policyChange) Run(ctx context.Context, s *session) error {
	rules, err := c.rules()
	if err != nil {
		return err
	}
	return s.policy(ctx, c.Name, func(ctx context.Context, cl Cluster) (*api.Policy, error) {
		return cl.SetPolicy(ctx, c.Name, rules, true)
	}, printPolicy)
}

type policyApply struct {
	Name  string   `arg:"" help:"Of the policy."`
	Disks []string `arg:"" help:"Names or ids."`
}

// Run is called by kong.
func (c *policyApply) Run(ctx context.Context, s *session) error {
	return s.policy(ctx, c.Name, func(ctx context.Context, cl Cluster) (*api.Policy, error) {
		return cl.ApplyPolicy(ctx, c.Name, c.Disks, false)
	}, printPolicy)
}

type policyRemove struct {
	Name  string   `arg:"" help:"Of the policy."`
	Disks []string `arg:"" help:"Names or ids."`
}

// Run is called by kong.
func (c *policyRemove) Run(ctx context.Context, s *session) error {
	return s.policy(ctx, c.Name, func(ctx context.Context, cl Cluster) (*api.Policy, error) {
		return cl.ApplyPolicy(ctx, c.Name, c.Disks, true)
	}, printPolicy)
}

type policyDelete struct {
	Name string `arg:"" help:"Of the policy."`
}

// Run is called by kong.
func (c *policyDelete) Run(ctx context.Context, s *session) error {
	return s.policy(ctx, c.Name, func(ctx context.Context, cl Cluster) (*api.Policy, error) { return cl.DeletePolicy(ctx, c.Name) },
		func(w io.Writer, v *policyView) {
			fmt.Fprintf(w, "deleted policy %s; %d snapshots that it made stay\n", v.Name, v.Snapshots)
		})
}

type policyList struct{}

// Run is called by kong.
func (c *policyList) Run(ctx context.Context, s *session) error {
	return s.with(ctx, func(ctx context.Context, cl Cluster) error {
		all, err := cl.Policies(ctx)
		if err != nil {
			return err
		}
		views := make([]policyView, len(all))
		for i, p := range all {
			views[i] = viewPolicy(p)
		}
		return s.show(views, func(w io.Writer) {
			if len(views) == 0 {
				fmt.Fprintln(w, "no policies yet; make one: ashlar policy create nightly --at 02:00 --retain 7d")
				return
			}
			var rows [][]string
			for i := range views {
				v := &views[i]
				rows = append(rows, []string{v.Name, strings.Join(v.At, ","), v.days(), v.kept(), fmt.Sprint(len(v.Disks)), fmt.Sprint(v.Snapshots), v.Next, v.last()})
			}
			table(w, []string{"NAME", "AT (UTC)", "DAYS", "KEPT", "DISKS", "MADE", "NEXT", "LAST RUN"}, rows)
		})
	})
}

type policyShow struct {
	Name string `arg:"" help:"Of the policy."`
}

// Run is called by kong.
func (c *policyShow) Run(ctx context.Context, s *session) error {
	return s.policy(ctx, c.Name, func(ctx context.Context, cl Cluster) (*api.Policy, error) {
		all, err := cl.Policies(ctx)
		if err != nil {
			return nil, err
		}
		for _, p := range all {
			if p.Name == c.Name {
				return p, nil
			}
		}
		return nil, fmt.Errorf("policy %s: %w", strconv.Quote(c.Name), errs.ErrNotFound)
	}, printPolicy)
}
