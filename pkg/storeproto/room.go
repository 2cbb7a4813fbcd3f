package storeproto

// Room says how far a put may fill a store. A store keeps room back, step by step, so that what
// was acknowledged can always be packed, and what gives space back always be done.
type Room uint8

// The steps; each but the first may go further than RoomFresh. Values are those of the wire.
const (
	RoomPack    Room = iota // what was acknowledged is packed, from the room kept back for it
	RoomFresh               // until the store calls itself full
	RoomReserve             // what gives space back or keeps data safe: cleaning, repair, packing in front of trims
	RoomPages               // pages of checkpoints, without which nothing comes back
	Rooms       = 4
)

func (r Room) String() string {
	switch r {
	case RoomPack:
		return "pack"
	case RoomFresh:
		return "fresh"
	case RoomReserve:
		return "reserve"
	case RoomPages:
		return "pages"
	}
	return "unknown"
}
