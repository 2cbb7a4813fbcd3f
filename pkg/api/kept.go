package api

import (
	"time"

	"ashlar.dev/pkg/cluster"
)

// FromKept makes the message of k; nil is no message.
func FromKept(k *cluster.Kept) *Kept {
	if k == nil {
		return nil
	}
	return &Kept{SinceUnixMs: k.Since.UnixMilli(), Emptied: k.Emptied, Trashed: k.Until != 0}
}

// Value reads the message; nil gives nil.
func (x *Kept) Value() *cluster.Kept {
	if x == nil {
		return nil
	}
	k := &cluster.Kept{Since: time.UnixMilli(x.SinceUnixMs).UTC(), Emptied: x.Emptied}
	if x.Trashed {
		k.Until = 1 // when, only metad's state knows
	}
	return k
}
