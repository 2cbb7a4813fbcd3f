package cluster

import "ashlar.dev/pkg/id"

// Remain is what a store has of a group that is coded otherwise than the group is at Version.
// Once a store has said so, nothing that is coded under an older version is born there any more.
type Remain struct {
	PG      id.PG
	Version uint32
	Shards  uint64
	Bytes   uint64
	Volumes []id.Volume // whose they are, some of them
}

// RemainVolumesMax bounds the volumes of one Remain, RemainsMax the groups of which a store tells at once.
const (
	RemainVolumesMax = 16
	RemainsMax       = 4096
)
