package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
)

type statusCommand struct {
	Verbose bool `short:"v" help:"Memory limits of every process too."`
	Check   bool `help:"Exit with 4 if the health is UNAVAILABLE and with 1 if it is DEGRADED or AT_RISK."`
}

// statusView is the cluster in JSON.
type statusView struct {
	Cluster       string        `json:"cluster,omitempty"`
	Health        string        `json:"health"` // OK, DEGRADED, AT_RISK or UNAVAILABLE
	Reasons       []reasonView  `json:"reasons"`
	ReasonsTotal  uint32        `json:"reasonsTotal"`
	Counts        countsView    `json:"counts"`
	CapacityBytes uint64        `json:"capacityBytes"`
	UsedBytes     uint64        `json:"usedBytes"`
	UnpackedBytes uint64        `json:"unpackedBytes"`
	Metads        []metadView   `json:"metads"`
	Blockds       []hostView    `json:"blockds"`
	Stores        []storeView   `json:"stores"`
	Profiles      []profileView `json:"profiles"`
	Disks         []diskView    `json:"disks"`
	Processes     []processView `json:"processes"` // what the daemons do with memory
	Repair        repairView    `json:"repair"`
	Balance       balanceView   `json:"balance"`
	Recoding      recodingView  `json:"recoding"`
	Summary       string        `json:"summary"` // the health in words: what, how much, which margin is left
	Room          roomView      `json:"room"`
	Kept          keptView      `json:"kept"`
	Trash         trashRoomView `json:"trash"`
	Cleaning      cleaningView  `json:"cleaning"`
	Risk          riskView      `json:"risk"`
	Backup        *backupsView  `json:"backup,omitempty"` // of metad's state, in the archive
}

type reasonView struct {
	Code    string `json:"code"`
	Health  string `json:"health"`
	Subject string `json:"subject,omitempty"`
	Text    string `json:"text"`
}

type countsView struct {
	Metads           uint32 `json:"metads"`
	MetadsUp         uint32 `json:"metadsUp"`
	Blockds          uint32 `json:"blockds"`
	BlockdsUp        uint32 `json:"blockdsUp"`
	Stores           uint32 `json:"stores"`
	StoresUp         uint32 `json:"storesUp"`
	StoresLost       uint32 `json:"storesLost"`
	PGs              uint32 `json:"pgs"`
	PGsFullMargin    uint32 `json:"pgsFullMargin"`
	PGsReducedMargin uint32 `json:"pgsReducedMargin"`
	PGsNoMargin      uint32 `json:"pgsNoMargin"`
	PGsUnreadable    uint32 `json:"pgsUnreadable"`
	Disks            uint32 `json:"disks"`
	DisksAttached    uint32 `json:"disksAttached"`
	DisksStuck       uint32 `json:"disksStuck"`
	DisksDeleting    uint32 `json:"disksDeleting"`
}

type metadView struct {
	ID      string `json:"id"`
	Address string `json:"address"`
	Leader  bool   `json:"leader"`
	Up      bool   `json:"up"`
}

type hostView struct {
	Host          string       `json:"host"`
	Zone          string       `json:"zone,omitempty"`
	Up            bool         `json:"up"`
	Cordoned      bool         `json:"cordoned"` // nothing new is placed there
	Address       string       `json:"address"`
	LastSeenMS    int64        `json:"lastSeenMs"`
	CPUMS         uint64       `json:"cpuMs"`
	ResidentBytes uint64       `json:"residentBytes"`
	DisksOwned    uint32       `json:"disksOwned"`
	Memory        []memoryView `json:"memory"`
}

type profileView struct {
	Profile       string `json:"profile"` // such as 4+2
	Preferred     bool   `json:"preferred"`
	PGs           uint32 `json:"pgs"`
	FullMargin    uint32 `json:"fullMargin"`
	ReducedMargin uint32 `json:"reducedMargin"`
	NoMargin      uint32 `json:"noMargin"`
	Unreadable    uint32 `json:"unreadable"`
}

// healthWord is the health as scripts know it. What a newer server calls by a number we
// do not know is shown as that number, never as OK.
func healthWord(h api.Health) string { return strings.TrimPrefix(h.String(), "HEALTH_") }

func viewStatus(r *api.StatusReply) statusView {
	c := r.GetCounts()
	v := statusView{
		Cluster: r.ClusterId, Health: healthWord(r.Health), Reasons: []reasonView{}, ReasonsTotal: r.ReasonsTotal,
		CapacityBytes: r.CapacityBytes, UsedBytes: r.UsedBytes, UnpackedBytes: r.UnpackedBytes, Repair: viewRepair(r.Repair), Balance: viewBalance(r.Balance), Recoding: viewRecoding(r.Recoding),
		Summary: r.Summary, Room: viewRoom(r.Room), Kept: viewKept(r.Kept), Trash: viewTrashRoom(r.Trash), Cleaning: viewCleaning(r.Cleaning), Risk: viewRisk(r.Risk), Backup: viewBackups(r.Backup),
		Counts: countsView{
			Metads: c.GetMetads(), MetadsUp: c.GetMetadsUp(), Blockds: c.GetHosts(), BlockdsUp: c.GetHostsUp(),
			Stores: c.GetStores(), StoresUp: c.GetStoresUp(), StoresLost: c.GetStoresLost(),
			PGs: c.GetPgs(), PGsFullMargin: c.GetPgsFullMargin(), PGsReducedMargin: c.GetPgsReducedMargin(),
			PGsNoMargin: c.GetPgsNoMargin(), PGsUnreadable: c.GetPgsUnreadable(),
			Disks: c.GetDisks(), DisksAttached: c.GetDisksAttached(), DisksStuck: c.GetDisksStuck(), DisksDeleting: c.GetDisksDeleting(),
		},
		Metads: []metadView{}, Blockds: []hostView{}, Stores: []storeView{}, Profiles: []profileView{}, Disks: []diskView{},
	}
	for _, x := range r.Reasons {
		v.Reasons = append(v.Reasons, reasonView{x.Code, healthWord(x.Health), x.Subject, x.Text})
	}
	for _, m := range r.Metads {
		v.Metads = append(v.Metads, metadView{m.Id, m.ApiAddress, m.Leader, m.Up})
	}
	for _, h := range r.Hosts {
		v.Blockds = append(v.Blockds, viewHost(h))
	}
	for _, x := range r.Stores {
		v.Stores = append(v.Stores, viewStore(x))
	}
	for _, p := range r.Profiles {
		v.Profiles = append(v.Profiles, profileView{fmt.Sprintf("%d+%d", p.K, p.M), p.Preferred, p.Pgs, p.FullMargin, p.ReducedMargin, p.NoMargin, p.Unreadable})
	}
	v.Processes = viewProcesses(r.Processes)
	for _, d := range r.Disks {
		v.Disks = append(v.Disks, viewDisk(d))
	}
	return v
}

func viewHost(h *api.Host) hostView {
	v := hostView{Host: h.Host, Zone: h.Zone, Up: h.Up, Cordoned: h.Cordoned, Address: h.DataAddress, LastSeenMS: h.LastSeenMs, CPUMS: h.CpuMs,
		ResidentBytes: h.ResidentBytes, DisksOwned: h.DisksOwned, Memory: []memoryView{}}
	for _, m := range h.Memory {
		v.Memory = append(v.Memory, memoryView{Name: m.Name, UsedBytes: m.UsedBytes, LimitBytes: m.LimitBytes})
	}
	return v
}

// Run is called by kong. A cluster that cannot be reached is UNAVAILABLE: with -o json that
// is an answer too, printed beside the error.
func (c *statusCommand) Run(ctx context.Context, s *session) error {
	var r *api.StatusReply
	err := s.with(ctx, func(ctx context.Context, cl Cluster) (err error) {
		r, err = cl.Status(ctx, true)
		return err
	})
	if unreachable(err) && s.flags.Output == "json" {
		silent := &api.StatusReply{Health: api.Health_HEALTH_UNAVAILABLE, ReasonsTotal: 1, Reasons: []*api.Reason{
			{Code: "metad_unreachable", Health: api.Health_HEALTH_UNAVAILABLE, Subject: "metad", Text: err.Error()}}}
		return errors.Join(s.show(viewStatus(silent), nil), err)
	}
	if err != nil {
		return err
	}
	if err := s.show(viewStatus(r), func(w io.Writer) { c.print(w, r) }); err != nil || !c.Check {
		return err
	}
	switch r.Health {
	case api.Health_HEALTH_OK:
		return nil
	case api.Health_HEALTH_UNAVAILABLE:
		return &verdict{codeUnavailable}
	}
	return &verdict{codeFailed}
}

func unreachable(err error) bool {
	for _, class := range []error{errs.ErrUnavailable, errs.ErrTimeout, errs.ErrClosed, context.DeadlineExceeded} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}

func (c *statusCommand) print(w io.Writer, r *api.StatusReply) {
	n := r.GetCounts()
	printHealth(w, r)
	for _, x := range r.Reasons {
		fmt.Fprintf(w, "        %s: %s\n", healthWord(x.Health), x.Text)
	}
	if more := int(r.ReasonsTotal) - len(r.Reasons); more > 0 {
		fmt.Fprintf(w, "        and %d more\n", more)
	}
	leader := "no leader"
	for _, m := range r.Metads {
		if m.Leader {
			leader = "leader " + m.Id
		}
	}
	fmt.Fprintf(w, "metad   %d of %d up, %s\n", n.GetMetadsUp(), n.GetMetads(), leader)
	fmt.Fprintf(w, "blockd  %d of %d up\n", n.GetHostsUp(), n.GetHosts())
	fmt.Fprintf(w, "stores  %d of %d up", n.GetStoresUp(), n.GetStores())
	if n.GetStoresLost() > 0 {
		fmt.Fprintf(w, ", %d lost for good", n.GetStoresLost())
	}
	fmt.Fprintln(w)
	printRoom(w, r.GetRoom())
	printKept(w, r.GetKept())
	printTrash(w, r.GetTrash())
	for _, p := range r.Profiles {
		fmt.Fprintf(w, "groups  %d+%d: %d%s\n", p.K, p.M, p.Pgs, margins(p))
	}
	printRepair(w, r.GetRepair())
	printRecoding(w, r.GetRecoding())
	printBalance(w, r.GetBalance())
	printCleaning(w, r.GetCleaning())
	fmt.Fprintf(w, "disks   %d, %d attached%s, %s not packed yet\n", n.GetDisks(), n.GetDisksAttached(), oddDisks(n), size(r.UnpackedBytes))
	printBackup(w, r.GetBackup(), r.AtUnixMs)
	c.printHosts(w, r.Hosts)
	if c.Verbose {
		printMemory(w, r.Processes)
	}
}

// printRepair says what is being moved, and how long it will take.
func printRepair(w io.Writer, r *api.Repair) {
	if r.GetGroups() == 0 {
		return
	}
	fmt.Fprintf(w, "repair  %d groups, %d segments (%s) to go", r.Groups, r.SegmentsLeft, size(r.BytesLeft))
	if r.BytesPerSecond > 0 && r.BytesLeft > 0 {
		fmt.Fprintf(w, " at %s/s, about %s", size(r.BytesPerSecond), time.Duration(r.SecondsLeft)*time.Second)
	}
	if r.Stuck > 0 {
		fmt.Fprintf(w, ", %d have too few right shards", r.Stuck)
	}
	fmt.Fprintln(w)
}

func margins(p *api.ProfileCount) string {
	var parts []string
	for _, x := range []struct {
		n    uint32
		text string
	}{{p.FullMargin, "with full margin"}, {p.ReducedMargin, "with reduced margin"}, {p.NoMargin, "with no margin left"}, {p.Unreadable, "unreadable"}} {
		if x.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", x.n, x.text))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

func oddDisks(n *api.Counts) string {
	out := ""
	if n.GetDisksStuck() > 0 {
		out += fmt.Sprintf(", %d stuck", n.GetDisksStuck())
	}
	if n.GetDisksDeleting() > 0 {
		out += fmt.Sprintf(", %d being deleted", n.GetDisksDeleting())
	}
	return out
}

func (c *statusCommand) printHosts(w io.Writer, hosts []*api.Host) {
	if len(hosts) == 0 {
		return
	}
	var rows [][]string
	for _, h := range hosts {
		state, seen := hostState(h), "-"
		if h.LastSeenMs >= 0 {
			seen = (time.Duration(h.LastSeenMs) * time.Millisecond).Round(100*time.Millisecond).String() + " ago"
		}
		rows = append(rows, []string{h.Host, dash(h.Zone), state, seen, strconv.Itoa(int(h.DisksOwned)), size(h.ResidentBytes),
			(time.Duration(h.CpuMs) * time.Millisecond).Round(time.Second).String()})
	}
	fmt.Fprintln(w)
	table(w, []string{"BLOCKD", "ZONE", "STATE", "SEEN", "OWNS", "MEMORY", "CPU"}, rows)
}
