package export

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net"
	"strings"
	"sync"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/volproto"
)

// splitName parts an export's name into the disk and the attachment.
func splitName(name string) (disk, attachment string) {
	disk, attachment, _ = strings.Cut(name, "#")
	return disk, attachment
}

// sessions gives every connection of this host's clients its session.
//
// A client names its attachment in the export's name, or is known by its process if
// it came through the unix socket; otherwise every connection is an attachment of
// its own, and nothing shuts out what an older one may still have under way. While
// a client's connections to an attachment are open here further ones join its session, so
// that the connections of a multi-conn client are one. But when one of them was closed by
// the client and has requests under way still, or they are another process's or another
// host's, then the next is a client that came back, or its successor: it gets a higher
// number, which shuts all of them out, as it does after the last one has gone. Numbers are microseconds of the wall clock, so that they
// rise from host to host too; a clock that lags is corrected by raise.
type sessions struct {
	clock clock.Clock
	host  id.Host

	mu   sync.Mutex
	open map[sessionKey]*joined
}

type sessionKey struct {
	volume     id.Volume
	attachment id.Raw
}

type joined struct {
	number uint64
	conns  map[*member]struct{}
}

// member is one connection of a session.
type member struct {
	from   string      // the process or the host it comes from
	hungUp func() bool // nil: nobody can tell
}

func memberOf(peer nbd.Peer) *member {
	m := &member{hungUp: peer.HungUp}
	switch host, _, err := net.SplitHostPort(fmt.Sprint(peer.Addr)); {
	case peer.Process != nil:
		m.from = fmt.Sprintf("process %d", peer.Process.PID)
	case err == nil:
		m.from = "host " + host
	}
	return m
}

// takes tells whether one more connection may be of the session.
func (j *joined) takes(m *member) bool {
	for x := range j.conns {
		if x.from != m.from || x.hungUp != nil && x.hungUp() {
			return false
		}
	}
	return true
}

func newSessions(cfg Config) *sessions {
	return &sessions{clock: cfg.Clock, host: cfg.Holder.Host, open: make(map[sessionKey]*joined)}
}

// attachmentOf names the attachment of a connection.
func (s *sessions) attachmentOf(name string, peer nbd.Peer) (a id.Raw) {
	var who string
	switch {
	case name != "":
		who = "name " + name
	case peer.Process != nil:
		who = fmt.Sprintf("process %d on %s", peer.Process.PID, s.host)
	default:
		if _, err := rand.Read(a[:]); err != nil {
			panic(err) // crypto/rand does not fail
		}
		return a
	}
	h := sha256.Sum256([]byte(who))
	copy(a[:], h[:])
	return a
}

// join gives the session of one more connection; leave ends its part in it.
func (s *sessions) join(v id.Volume, name string, peer nbd.Peer) (volproto.Session, func()) {
	key := sessionKey{v, s.attachmentOf(name, peer)}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := memberOf(peer)
	j := s.open[key]
	if j == nil || !j.takes(m) {
		number := uint64(s.clock.Wall().UnixMicro())
		if j != nil {
			number = max(number, j.number+1)
		}
		j = &joined{number: number, conns: make(map[*member]struct{})}
		s.open[key] = j
	}
	j.conns[m] = struct{}{}
	return volproto.Session{Attachment: key.attachment, Number: j.number}, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if delete(j.conns, m); len(j.conns) == 0 && s.open[key] == j {
			delete(s.open, key)
		}
	}
}

// raise gives a session that was refused as too old a higher number.
func (s *sessions) raise(v id.Volume, old volproto.Session) volproto.Session {
	key := sessionKey{v, old.Attachment}
	s.mu.Lock()
	defer s.mu.Unlock()
	next := max(old.Number+1_000_000, uint64(s.clock.Wall().UnixMicro()))
	if j := s.open[key]; j != nil {
		j.number = max(j.number, next)
		next = j.number
	}
	return volproto.Session{Attachment: old.Attachment, Number: next}
}
