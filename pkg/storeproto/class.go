package storeproto

// Class says who waits for a read or a put, and so whose turn it is at a busy disk. Appends,
// fences and leases have no class: they go before everything.
type Class uint8

// The classes, the most urgent first. Values are those of the wire.
const (
	ClassDemand Class = iota // a client waits: reads, long writes
	ClassPack                // what was acknowledged is packed; at the end writers wait for it
	ClassRepair
	ClassClean
	ClassScrub
	Classes = 5
)

func (c Class) String() string {
	switch c {
	case ClassDemand:
		return "demand"
	case ClassPack:
		return "pack"
	case ClassRepair:
		return "repair"
	case ClassClean:
		return "clean"
	case ClassScrub:
		return "scrub"
	}
	return "unknown"
}
