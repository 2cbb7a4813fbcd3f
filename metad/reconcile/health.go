package reconcile

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/metad/placement"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/id"
)

// Level is how healthy something is; the numbers are those of the wire.
type Level uint8

// The levels, from good to bad.
const (
	OK Level = iota + 1
	Degraded
	AtRisk
	Unavailable
)

// Reason is one thing that is not as it should be.
type Reason struct {
	Code    string // stable
	Level   Level
	Subject string
	Text    string
}

// PGCounts count placement groups by what they can still lose.
type PGCounts struct {
	Groups, Full, Reduced, None, Unreadable int
	Preferred                               bool
}

// Member is one metad.
type Member struct {
	ID string
	Up bool
}

// Report is the cluster's health.
type Report struct {
	Level    Level
	Reasons  []Reason // worst first
	Profiles map[placement.Profile]*PGCounts
	Total    PGCounts
	Stuck    int // disks that cannot be served now
	Attached int
	Deleting int
	Risk     Risk
}

// Risk is how much of what is stored has lost margin, in bytes of disks without redundancy.
type Risk struct {
	Reduced, None, Unreadable uint64
	Journals                  uint64 // not packed, in journals without margin
	Margin                    int    // how many more stores may be lost, whichever they are
}

// Add adds a reason that is not of this room; the worst stay first.
func (r *Report) Add(l Level, code, subject, format string, args ...any) {
	r.add(l, code, subject, format, args...)
	slices.SortStableFunc(r.Reasons, func(a, b Reason) int { return cmp.Compare(b.Level, a.Level) })
}

func (r *Report) add(l Level, code, subject, format string, args ...any) {
	r.Level = max(r.Level, l)
	r.Reasons = append(r.Reasons, Reason{Code: code, Level: l, Subject: subject, Text: fmt.Sprintf(format, args...)})
}

// Health judges the cluster. OK: nothing is missing. Degraded: something is, what is
// stored is still protected. AtRisk: one more failure may cost data or service.
// Unavailable: something cannot be read or written now.
func Health(m *state.Machine, t *cluster.Topology, l *Liveness, members []Member, now time.Duration) *Report {
	r := &Report{Level: OK, Profiles: make(map[placement.Profile]*PGCounts)}
	if r.rebuilding(m) {
		r.members(members, len(t.Hosts))
		return r
	}
	t = r.heardSoon(m, t, l, now)
	r.Risk.Margin = max(serving(t)-2, 0) // writing needs two; a full store keeps what it has, and journals
	r.members(members, len(t.Hosts))
	r.stores(m, t, l, now)
	r.hosts(m, t)
	r.groups(m, t, l)
	for _, v := range m.Volumes() {
		r.volume(t, l, v, now)
	}
	slices.SortStableFunc(r.Reasons, func(a, b Reason) int { return cmp.Compare(b.Level, a.Level) })
	return r
}

// serving counts the stores that are up, full or not.
func serving(t *cluster.Topology) (n int) {
	for _, s := range t.Stores {
		if s.State == cluster.StoreUp {
			n++
		}
	}
	return n
}

// membersSafe is how many metads there should be where there are that many hosts.
const membersSafe = 3

func (r *Report) members(members []Member, hosts int) {
	up := 0
	for _, x := range members {
		if x.Up {
			up++
		} else {
			r.add(Degraded, "metad_down", x.ID, "metad %s does not answer", x.ID)
		}
	}
	// The group answers, so it has its majority; without one I/O would go on, but no disk could be opened.
	if spare := up - (len(members)/2 + 1); spare <= 0 && up < len(members) {
		r.add(AtRisk, "metad_no_margin", "", "%d of %d metads are up: if one more stops, no disk can be opened or changed (I/O goes on)", up, len(members))
	} else if n := len(members); n > 0 && n < membersSafe && hosts >= membersSafe { // fewer hosts cannot do better
		r.add(Degraded, "metad_few", "", "metads: %d, hosts: %d; if a metad stops, no disk can be opened or changed (I/O goes on); three metads survive the loss of one: ashlar metad add", n, hosts)
	}
}

// storeNearFull is from which share of its capacity on a store is worth a word.
const storeNearFull = 0.85

func (r *Report) stores(m *state.Machine, t *cluster.Topology, l *Liveness, now time.Duration) {
	up, trash := 0, l.trashText(m, t)
	for _, s := range t.Stores {
		switch s.State {
		case cluster.StoreUp:
			up++
		case cluster.StoreDown:
			_, why := l.StoreUp(now, s.StoreRef, s.Host)
			r.add(Degraded, "store_down", s.Store.String(), "store %s on %s is down: %s", s.Store, s.Host, why)
		case cluster.StoreDraining:
			up++
		case cluster.StoreOut:
			if groups, lists := m.Needed(s.StoreRef); groups > 0 || lists > 0 {
				_, why := l.StoreUp(now, s.StoreRef, s.Host)
				r.add(Degraded, "store_out", s.Store.String(), "store %s on %s is out (%s): what it has is being rebuilt on others", s.Store, s.Host, why)
			}
		case cluster.StoreLost:
			r.add(Degraded, "store_lost", s.Store.String(), "store %s on %s is lost for good", s.Store, s.Host)
		}
		r.care(s, l)
		if mean, others, slow := l.Slow(s.Store); slow && s.State == cluster.StoreUp {
			r.add(Degraded, "store_slow", s.Store.String(), "store %s on %s answers slowly: %v on average where others take %v; %s", s.Store, s.Host,
				mean.Round(time.Millisecond), others.Round(100*time.Microsecond), leftOut(s, t))
		}
		switch {
		case s.State != cluster.StoreUp:
		case s.Full:
			r.add(AtRisk, "store_full", s.Store.String(), "store %s on %s is full and takes no new data: trim, delete for good (--purge), or add a store%s", s.Store, s.Host, trash)
		case s.Capacity > 0 && float64(s.Used) >= storeNearFull*float64(s.Capacity):
			r.add(Degraded, "store_nearly_full", s.Store.String(), "store %s on %s is %d%% full%s", s.Store, s.Host, s.Used*100/s.Capacity, trash)
		}
	}
	switch {
	case len(t.Stores) == 0:
		r.add(Unavailable, "no_stores", "", "no store has registered yet")
	case up < 2:
		r.add(Unavailable, "too_few_stores", "", "%d stores are up; writing needs two", up)
	case up == 2:
		r.add(AtRisk, "two_stores", "", "only two stores are up: if one stops, writing stops")
	}
}

// leftOut says what becomes of a slow store.
func leftOut(s cluster.Store, t *cluster.Topology) string {
	switch {
	case s.Slow && t.QuickHosts() >= cluster.JournalHosts:
		return "journals and reads pass it by until it is quick again"
	case s.Slow:
		return "reads pass it by until it is quick again"
	}
	return "it is used all the same, because too few others are quick"
}

// care judges what a store found of its own shards.
func (r *Report) care(s cluster.Store, l *Liveness) {
	b, ok := l.StoreBeat(s.StoreRef)
	if !ok || !s.State.Serves() {
		return
	}
	c := b.Care
	if c.Stuck > 0 {
		r.add(Unavailable, "shards_stuck", s.Store.String(), "store %s on %s has %d wrong shards that cannot be rebuilt now, too few others are right: %s", s.Store, s.Host, c.Stuck, c.Problem)
	}
	if c.Flagged {
		r.add(Degraded, "store_bad_blocks", s.Store.String(), "store %s on %s had %d wrong and %d missing shards, %d are mended; so many in so short a time speak of a failing disk: ashlar store replace %s",
			s.Store, s.Host, c.Wrong, c.Missing, c.Mended, s.Store)
	}
}

// hosts: a host with stores is told of by its stores; one without matters only while it
// owns disks, for then they wait for a takeover.
func (r *Report) hosts(m *state.Machine, t *cluster.Topology) {
	owns := make(map[id.Host]int)
	for _, v := range m.Volumes() {
		if (v.Owner != id.Holder{}) {
			owns[v.Owner.Host]++
		}
	}
	for _, h := range t.Hosts {
		if !h.Up && owns[h.Host] > 0 {
			r.add(Degraded, "owner_down", string(h.Host), "host %s is silent and owns %d disks; another host takes each over when a client asks for it", h.Host, owns[h.Host])
		}
	}
}

func (r *Report) groups(m *state.Machine, t *cluster.Topology, l *Liveness) {
	preferred, bears := false, losses(m, t)
	for _, p := range t.PGs {
		r.group(t, p, l.GroupBytes(p), bears)
		preferred = preferred || p.Preferred
	}
	if n := r.placeless(m, t); n > 0 {
		r.add(Degraded, "pg_no_place", "", "%d placement groups miss a store and no other can take its place: add a store, best on another host, or bring the missing one back", n)
	}
	if r.Total.Unreadable > 0 {
		r.add(Unavailable, "pg_unreadable", "", "%d placement groups miss more stores than they can: what lies in them cannot be read until one is back", r.Total.Unreadable)
	}
	if r.Total.None > 0 {
		r.add(AtRisk, "pg_no_margin", "", "%d placement groups have lost as many stores as they can", r.Total.None)
	}
	if r.Total.Reduced > 0 {
		r.add(Degraded, "pg_reduced_margin", "", "%d placement groups have less margin than they should", r.Total.Reduced)
	}
	healthy := len(Healthy(t, nil))
	switch full := serving(t) - healthy; {
	case preferred || len(t.PGs) == 0 && healthy < 2:
	case full > healthy:
		r.add(AtRisk, "cluster_full", "", "the cluster is full: writes to blocks that have no room yet fail with ENOSPC, reads go on; delete disks or snapshots, trim, or add stores")
	default:
		r.add(AtRisk, "no_placement", "", "no placement group can take new data; writes will wait once the journals are full")
	}
}

// placeless counts the groups of which a store leaves that nobody can replace.
func (r *Report) placeless(m *state.Machine, t *cluster.Topology) (n int) {
	healthy := Takers(t, nil)
	for _, p := range m.PGs() {
		current := p.Current()
		if len(p.Versions) == 1 && slices.ContainsFunc(current.Stores, m.Leaves) && m.PlanMove(p.Number, healthy, 0) == nil {
			n++
		}
	}
	return n
}

// group counts a group by how many more stores it may lose. While an older version is
// kept what lies in it may not have been rebuilt or coded anew yet: the worst of them counts.
// bears is how many losses the best code bears that is possible now.
func (r *Report) group(t *cluster.Topology, p cluster.PG, bytes uint64, bears int) {
	v, missing, relaxed := p.Current(), 0, false
	left := int(v.M)
	for _, o := range p.Versions {
		n := 0
		for _, s := range o.Stores {
			if !t.Usable(s) {
				n++
			}
		}
		if int(o.M)-n < left || n > missing {
			left, missing = min(left, int(o.M)-n), max(missing, n)
		}
		relaxed = relaxed || o.Relaxed || bytes > 0 && int(o.M) < bears
	}
	r.Risk.Margin = max(min(r.Risk.Margin, left), 0)
	switch {
	case left < 0:
		r.Risk.Unreadable += bytes
	case left == 0:
		r.Risk.None += bytes
	case missing > 0 || relaxed:
		r.Risk.Reduced += bytes
	}
	profile := placement.Profile{K: v.K, M: v.M}
	c := r.Profiles[profile]
	if c == nil {
		c = &PGCounts{}
		r.Profiles[profile] = c
	}
	c.Preferred = c.Preferred || p.Preferred
	for _, c := range []*PGCounts{c, &r.Total} {
		c.Groups++
		switch {
		case left < 0:
			c.Unreadable++
		case left == 0:
			c.None++
		case missing > 0 || relaxed:
			c.Reduced++
		default:
			c.Full++
		}
	}
}

func (r *Report) volume(t *cluster.Topology, l *Liveness, v *state.Volume, now time.Duration) {
	if v.Deleted {
		r.Deleting++
		return
	}
	name, stuck := v.Name, false
	owned := v.Owner != id.Holder{}
	unpacked := uint64(0)
	if b, ok := l.Volume(v.Owner, v.ID, v.Epoch); owned && ok && l.HostUp(now, v.Owner.Host) {
		unpacked = b.Unpacked
		if b.Sessions > 0 {
			r.Attached++
		}
		if b.State == Stuck {
			stuck = true
			r.add(Unavailable, "disk_stuck", v.ID.String(), "disk %s cannot be served now: %s", name, b.Problem)
		}
	}
	r.lost(l, v)
	left := spareMax
	for _, e := range v.List {
		spare, bad := r.ensemble(t, v, e)
		left, stuck = min(left, spare), bad || stuck
	}
	if r.Risk.Margin = max(min(r.Risk.Margin, left), 0); left <= 0 {
		r.Risk.Journals += unpacked
	}
	if stuck {
		r.Stuck++
	}
	if len(v.Losses) > 0 {
		r.add(Degraded, "disk_lossy", v.ID.String(), "disk %s is marked: an operator accepted that acknowledged writes may be gone", name)
	}
}

// lost names a disk of which something cannot be read, by its owner's last look.
func (r *Report) lost(l *Liveness, v *state.Volume) {
	b, ok := l.Volume(v.Owner, v.ID, v.Epoch)
	if !ok || b.Lost == nil {
		return
	}
	if n := b.Lost.Bytes; n > 0 {
		r.add(Unavailable, "disk_lost", v.ID.String(), "disk %s: %s are lost for good; ashlar disk lost %s lists where; whatever is written there or trimmed is whole again", v.Name, config.ByteSize(n).Human(), v.Name)
	}
	if n := b.Lost.Away; n > 0 {
		r.add(Unavailable, "disk_away", v.ID.String(), "disk %s: %s cannot be read until stores are back that are down (ashlar disk lost %s)", v.Name, config.ByteSize(n).Human(), v.Name)
	}
}

// spareMax is more stores than any journal could lose.
const spareMax = 3

// ensemble judges whether a volume's unpacked writes could be recovered now, and after
// one more loss. What is open needs two of three answers, or one of two; of what is
// closed one of its two holders does. It tells how many stores more it may
// lose, and whether recovery is impossible now.
func (r *Report) ensemble(t *cluster.Topology, v *state.Volume, e cluster.Ensemble) (spare int, stuck bool) {
	stores, need := recovery(e)
	have := 0
	for _, s := range stores {
		if t.Usable(s) {
			have++
		}
	}
	switch {
	case e.LossAccepted:
		return spareMax, false
	case have >= len(stores):
	case have < need:
		r.add(Unavailable, "journal_unreadable", v.ID.String(), "disk %s: only %d of the %d stores of its journal are up, opening it needs %d", v.Name, have, len(stores), need)
		return have - need, true
	case have == need:
		r.add(AtRisk, "journal_no_margin", v.ID.String(), "disk %s: %d of the %d stores of its journal are up; if one more stops it cannot be opened", v.Name, have, len(stores))
	}
	return max(have-need, 0), false
}
