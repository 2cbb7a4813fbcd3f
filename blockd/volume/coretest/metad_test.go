package coretest

import (
	"fmt"
	"testing"

	"ashlar.dev/blockd/volume/metadtest"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// Without this tests of the engine would run against rules that no metad keeps.
func TestMetadKeepsTheRules(t *testing.T) {
	metadtest.Run(t, func(*testing.T) metadtest.Body {
		f := NewMetad()
		for i := range 6 {
			ref := cluster.StoreRef{Store: id.Store{15: byte(i + 1)}, Incarnation: id.Incarnation{1, byte(i)}}
			f.AddStore(cluster.Store{StoreRef: ref, Host: metadtest.Hosts[i/2], State: cluster.StoreUp})
		}
		f.Profile(4, 2)
		made := byte(0)
		return metadtest.Body{
			Metad: f,
			Create: func(*testing.T) id.Volume {
				made++
				f.Create(id.Volume{made}, 1<<30)
				return id.Volume{made}
			},
			Live: func(*testing.T, id.Holder) {},
			Acquire: func(t *testing.T, v id.Volume, by id.Holder) *cluster.Volume {
				r, err := f.Acquire(v, by)
				if err != nil {
					t.Fatal(fmt.Errorf("acquire: %w", err))
				}
				return r
			},
			Lose: func(_ *testing.T, s cluster.StoreRef) { f.Mark(s.Store, cluster.StoreLost) },
			Full: func(_ *testing.T, s cluster.StoreRef, full bool) { f.MarkFull(s.Store, full) },
		}
	})
}
