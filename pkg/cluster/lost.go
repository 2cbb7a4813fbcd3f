package cluster

// What of a disk cannot be read. It is lost when fewer shards of it are left than it takes,
// wherever they may still come back from; it is away when stores that are down for now
// would make it readable.

// Limits of what is told of it.
const (
	LostRangesMax = 1024 // ranges of one page
	DoubtsMax     = 4096 // segments of which stores found shards wrong, named to owners
	LooksMax      = 64   // questions at one time
	StuckMax      = 256  // segments that one store calls stuck in a heartbeat
)

// Look asks the owner of a disk for what cannot be read of it.
type Look struct {
	ID   [16]byte // chosen by who asks: the same again is the same look
	From uint64   // offset in bytes
}

// Lost is what an owner found, from Look.From to the end of the disk.
type Lost struct {
	Look
	Bytes, Away uint64      // that are lost; that cannot be read now
	Count       uint64      // ranges of both kinds
	Ranges      []LostRange // the first LostRangesMax of them, in order
	Next        uint64      // where the ranges after these begin; 0: these are all
	Problem     string      // why something was not looked at

	tail LostRange // the last one, listed or not
}

// LostRange is a run of bytes of a disk.
type LostRange struct {
	Offset, Length uint64
	Away           bool
}

// Add counts a run that lies behind all before it, and joins it to the last if it continues it.
func (l *Lost) Add(offset, length uint64, away bool) {
	if away {
		l.Away += length
	} else {
		l.Bytes += length
	}
	listed := l.Next == 0
	if t := &l.tail; l.Count > 0 && t.Away == away && t.Offset+t.Length == offset {
		t.Length += length
		if listed {
			l.Ranges[len(l.Ranges)-1] = *t
		}
		return
	}
	l.Count++
	l.tail = LostRange{Offset: offset, Length: length, Away: away}
	switch {
	case !listed:
	case len(l.Ranges) == LostRangesMax:
		l.Next = offset
	default:
		l.Ranges = append(l.Ranges, l.tail)
	}
}
