package volume_test

import (
	"testing"

	"ashlar.dev/blockd/volume"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/nbd/nbdtest"
)

// device makes a volume an nbd.Device.
type device struct{ *volume.Volume }

func (d device) Size() uint64   { return d.SizeBytes() }
func (d device) Info() nbd.Info { return nbd.Info{MultiConn: true} }

// Without this the volume could owe the NBD server something that every other device does.
func TestVolumeIsADevice(t *testing.T) {
	nbdtest.Conformance(t, nbdtest.Suite{
		Steps: 150,
		Open: func(t *testing.T, size uint64) nbd.Device {
			r := newRig(t, 3, 1, 2, 1)
			r.metad.Create(id.Volume{1}, size)
			return device{r.engine("b1").mustOpen(id.Volume{1})}
		},
	})
}
