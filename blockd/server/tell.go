package server

import (
	"fmt"
	"sync"

	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/clock"
)

// tales are what this host tells metad of what happened here, for people to read
// afterwards. They travel with heartbeats and are told again until metad has them; at the
// limit the oldest go, and their number is told.
type tales struct {
	clock clock.Clock

	mu    sync.Mutex
	n     uint64
	queue []client.Event
	lost  int
}

// talesMax bounds what waits for metad.
const talesMax = 256

// tell keeps an event. Its text is in plain words and holds no secrets; kind is stable.
func (t *tales) tell(s client.Severity, kind, about, subject, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) >= talesMax {
		t.queue = t.queue[1:]
		t.lost++
	}
	t.push(s, kind, about, subject, fmt.Sprintf(format, args...))
}

func (t *tales) push(s client.Severity, kind, about, subject, text string) {
	t.n++
	t.queue = append(t.queue, client.Event{N: t.n, At: t.clock.Wall(), Severity: s, Kind: kind, About: about, Subject: subject, Text: text})
}

// next is what the next heartbeat tells.
func (t *tales) next() []client.Event {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lost > 0 && len(t.queue) < talesMax {
		t.push(client.Warning, "events_left_out", "host", "", fmt.Sprintf("%d events waited for metad for too long and were left out", t.lost))
		t.lost = 0
	}
	return append([]client.Event(nil), t.queue[:min(len(t.queue), client.EventsPerBeatMax)]...)
}

// taken drops what metad has.
func (t *tales) taken(upto uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.queue) > 0 && t.queue[0].N <= upto {
		t.queue = t.queue[1:]
	}
}
