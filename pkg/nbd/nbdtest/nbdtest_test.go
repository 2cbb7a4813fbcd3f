package nbdtest_test

import (
	"testing"

	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/nbd/devices"
	"ashlar.dev/pkg/nbd/nbdtest"
)

func memory(_ *testing.T, size uint64) nbd.Device { return devices.NewMemory(size, 0) }

// Without this the suite itself, or the device that everything else is compared with, would be wrong.
func TestMemoryConforms(t *testing.T) {
	nbdtest.Conformance(t, nbdtest.Suite{Open: memory})
}

// Without this the server or the client would change, swap or lose what the device says, in one of the forms of messages.
func TestServerAndClientConform(t *testing.T) {
	for name, o := range map[string]nbd.ClientOptions{
		"extended":   {},
		"structured": {NoExtended: true},
		"simple":     {NoStructured: true},
		"old option": {NoStructured: true, ExportName: true},
		"few":        {RequestsMax: 3},
	} {
		t.Run(name, func(t *testing.T) {
			nbdtest.Conformance(t, nbdtest.Suite{Steps: 120, Open: func(t *testing.T, size uint64) nbd.Device {
				return nbdtest.Over(t, devices.NewMemory(size, 0), o)
			}})
		})
	}
}

// Without this a proxy (a client served by a server) would break the contract of its requests.
func TestProxyConforms(t *testing.T) {
	nbdtest.Conformance(t, nbdtest.Suite{Steps: 120, Open: func(t *testing.T, size uint64) nbd.Device {
		inner := nbdtest.Over(t, devices.NewMemory(size, 0), nbd.ClientOptions{})
		return nbdtest.Over(t, inner, nbd.ClientOptions{})
	}})
}
