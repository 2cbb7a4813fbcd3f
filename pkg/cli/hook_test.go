package cli

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
)

func (f *fake) SetPolicyHook(_ context.Context, policy, disk string, h *api.HookUse) (*api.Policy, error) {
	for _, p := range f.policies {
		if p.Name == policy {
			if p.Hooks = nil; h != nil {
				p.Hooks = []*api.PolicyHook{{Disk: disk, Use: h}}
			}
			return p, nil
		}
	}
	return nil, fmt.Errorf("policy %s: %w", policy, errs.ErrNotFound)
}

func (f *fake) CreateFrozenSnapshot(ctx context.Context, disk, name string, h *api.HookUse) (*api.Snapshot, error) {
	if h.Name == "broken" {
		return nil, fmt.Errorf("hook broken on %s: no luck: %w", h.Host, errs.ErrConflict)
	}
	return f.CreateSnapshot(ctx, disk, name)
}

func (f *fake) Hooks(context.Context) (*api.ListHooksReply, error) {
	return &api.ListHooksReply{Hosts: []*api.HostHooks{{Host: "h1", Names: []string{"db", "mail"}}}}, f.err
}

// Without this people could not say what is frozen for a snapshot, nor see what is.
func TestHooksByHand(t *testing.T) {
	x := newTerminal(t)
	x.must("disk create d --size 4GiB")
	x.must("policy create nightly --at 02:00 --keep 7")
	if out := x.must("policy hook nightly d --hook h1/db --hook-timeout 5s"); !strings.Contains(out, "h1/db frozen, for 5s") {
		t.Error(out)
	}
	if out := x.must("policy show nightly"); !strings.Contains(out, "frozen d: h1/db, 5s at most") {
		t.Error(out)
	}
	x.must("policy hook nightly d --off")
	if out := x.must("policy show nightly"); strings.Contains(out, "frozen") {
		t.Error(out)
	}
	if out := x.must("policy hooks"); !strings.Contains(out, "h1    db, mail") {
		t.Error(out)
	}
	x.must("snapshot create d --name s --hook h1/db")
	for line, want := range map[string]int{
		"snapshot create d --hook h1/broken":                codeConflict,
		"snapshot create d --hook db":                       codeUsage,
		"snapshot create --disk d --disk e --hook h1/db":    codeUsage,
		"policy hook nightly d":                             codeUsage,
		"policy hook nightly d --off --hook h1/db":          codeUsage,
		"policy hook none d --hook h1/db":                   codeNotFound,
		"policy hook nightly d --hook h1/db --hook-timeout": codeUsage,
	} {
		if code := x.run(line); code != want {
			t.Errorf("%s: %d %s", line, code, x.err.String())
		}
	}
}
