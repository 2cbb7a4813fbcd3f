package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"ashlar.dev/pkg/api"
)

// SetPolicy makes a snapshot policy or, with change, gives one other rules.
func (c *Cluster) SetPolicy(ctx context.Context, name string, rules *api.PolicyRules, change bool) (*api.Policy, error) {
	var raw [16]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return nil, fmt.Errorf("draw the id of a policy: %w", err)
	}
	q := &api.SetPolicyRequest{Name: name, Rules: rules, Change: change, PolicyId: hex.EncodeToString(raw[:])}
	return ask(ctx, c, q, func(x api.ClusterClient, ctx context.Context, r *api.SetPolicyRequest) (*api.Policy, error) {
		return x.SetPolicy(ctx, r)
	})
}

// DeletePolicy forgets a policy, and gives it as it was. Its snapshots stay.
func (c *Cluster) DeletePolicy(ctx context.Context, name string) (*api.Policy, error) {
	return ask(ctx, c, &api.DeletePolicyRequest{Name: name}, func(x api.ClusterClient, ctx context.Context, r *api.DeletePolicyRequest) (*api.Policy, error) {
		return x.DeletePolicy(ctx, r)
	})
}

// ApplyPolicy puts disks, by names or ids, under a policy; off: takes them out.
func (c *Cluster) ApplyPolicy(ctx context.Context, name string, disks []string, off bool) (*api.Policy, error) {
	q := &api.ApplyPolicyRequest{Name: name, Disks: disks, Off: off}
	return ask(ctx, c, q, func(x api.ClusterClient, ctx context.Context, r *api.ApplyPolicyRequest) (*api.Policy, error) {
		return x.ApplyPolicy(ctx, r)
	})
}

// Policies lists all policies, by name.
func (c *Cluster) Policies(ctx context.Context) ([]*api.Policy, error) {
	r, err := ask(ctx, c, &api.ListPoliciesRequest{}, func(x api.ClusterClient, ctx context.Context, r *api.ListPoliciesRequest) (*api.ListPoliciesReply, error) {
		return x.ListPolicies(ctx, r)
	})
	return r.GetPolicies(), err
}
