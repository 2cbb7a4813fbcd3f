package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
)

type topCommand struct {
	Every time.Duration `help:"How often to look." default:"2s"`
	Once  bool          `help:"Look twice, one interval apart, print once and end."`
	Sort  string        `help:"Order of the disks: iops, bandwidth, latency or name." enum:"iops,bandwidth,latency,name" default:"iops"`
	Disks int           `help:"How many disks to show; 0: all." default:"20"`
}

// Help is the long form.
func (topCommand) Help() string {
	return `Rates are those between two looks; latencies are means over requests whose time was taken,
one of eight. A host that is gone shows in the health and by its stores; while metad itself is
away the last picture stays, with the time since. With -o json each look is one line.`
}

// everyMin keeps a typing error from asking metad all the time.
const everyMin = 200 * time.Millisecond

// rateView is traffic per second in JSON.
type rateView struct {
	ReadIOPS            float64 `json:"readIops"`
	WriteIOPS           float64 `json:"writeIops"`
	OtherIOPS           float64 `json:"otherIops"`
	ReadBytesPerSecond  float64 `json:"readBytesPerSecond"`
	WriteBytesPerSecond float64 `json:"writeBytesPerSecond"`
	ReadLatencyUs       float64 `json:"readLatencyUs"` // mean; 0: none was timed
	WriteLatencyUs      float64 `json:"writeLatencyUs"`
	FailedPerSecond     float64 `json:"failedPerSecond"`
}

func (r *rateView) iops() float64  { return r.ReadIOPS + r.WriteIOPS }
func (r *rateView) bytes() float64 { return r.ReadBytesPerSecond + r.WriteBytesPerSecond }

// topView is one look in JSON.
type topView struct {
	At       string         `json:"at"`
	Health   string         `json:"health"`
	Summary  string         `json:"summary"`
	Seconds  float64        `json:"seconds"` // since the look before
	Total    rateView       `json:"total"`
	Disks    []diskRateView `json:"disks"`
	Stores   []storeRate    `json:"stores"`
	Repair   repairView     `json:"repair"`
	Cleaning cleaningView   `json:"cleaning"`
	Room     roomView       `json:"room"`
	Reasons  []reasonView   `json:"reasons"`
}

type diskRateView struct {
	Name  string `json:"name"`
	ID    string `json:"id"`
	State string `json:"state"`
	Owner string `json:"owner,omitempty"`
	rateView
}

type storeRate struct {
	ID                  string  `json:"id"`
	Host                string  `json:"host"`
	State               string  `json:"state"`
	SyncsPerSecond      float64 `json:"syncsPerSecond"`
	WriteBytesPerSecond float64 `json:"writeBytesPerSecond"`
	ReadsPerSecond      float64 `json:"readsPerSecond"`
	ReadBytesPerSecond  float64 `json:"readBytesPerSecond"`
	UsedBytes           uint64  `json:"usedBytes"`
	CapacityBytes       uint64  `json:"capacityBytes"`
}

// rise is how much a counter rose. One that fell began anew with its process.
func rise(before, after uint64) float64 {
	if after < before {
		before = 0
	}
	return float64(after - before)
}

// rates are those between two readings of a disk's counters.
func rates(a, b *api.Traffic, seconds float64) (r rateView) {
	if seconds <= 0 || b == nil {
		return r
	}
	if b.GetReads() < a.GetReads() || b.GetWrites() < a.GetWrites() || b.GetOthers() < a.GetOthers() {
		a = nil // another owner
	}
	per := func(x, y uint64) float64 { return rise(x, y) / seconds }
	mean := func(us, n float64) float64 {
		if n == 0 {
			return 0
		}
		return us / n
	}
	return rateView{
		ReadIOPS: per(a.GetReads(), b.Reads), WriteIOPS: per(a.GetWrites(), b.Writes), OtherIOPS: per(a.GetOthers(), b.Others),
		ReadBytesPerSecond: per(a.GetReadBytes(), b.ReadBytes), WriteBytesPerSecond: per(a.GetWriteBytes(), b.WriteBytes), FailedPerSecond: per(a.GetFailed(), b.Failed),
		ReadLatencyUs:  mean(rise(a.GetReadUs(), b.ReadUs), rise(a.GetTimedReads(), b.TimedReads)),
		WriteLatencyUs: mean(rise(a.GetWriteUs(), b.WriteUs), rise(a.GetTimedWrites(), b.TimedWrites)),
	}
}

// viewTop is what happened between two looks. A disk that was not there before has no rate yet.
func viewTop(before, after *api.StatusReply) topView {
	seconds := float64(after.GetAtUnixMs()-before.GetAtUnixMs()) / 1000
	v := topView{At: time.UnixMilli(after.AtUnixMs).UTC().Format(time.RFC3339), Health: healthWord(after.Health), Summary: after.Summary, Seconds: seconds,
		Disks: []diskRateView{}, Stores: []storeRate{}, Reasons: []reasonView{}, Repair: viewRepair(after.Repair), Cleaning: viewCleaning(after.Cleaning), Room: viewRoom(after.Room)}
	for _, x := range after.Reasons {
		v.Reasons = append(v.Reasons, reasonView{x.Code, healthWord(x.Health), x.Subject, x.Text})
	}
	disks := make(map[string]*api.Disk, len(before.GetDisks()))
	for _, d := range before.GetDisks() {
		disks[d.DiskId] = d
	}
	var timed [2][2]float64
	for _, d := range after.Disks {
		x := diskRateView{Name: d.Name, ID: d.DiskId, State: d.State, Owner: d.OwnerHost}
		if old := disks[d.DiskId]; old != nil {
			x.rateView = rates(old.Traffic, d.Traffic, seconds)
		}
		v.Disks = append(v.Disks, x)
		v.Total.add(&x.rateView, &timed)
	}
	stores := make(map[string]*api.Store, len(before.GetStores()))
	for _, s := range before.GetStores() {
		stores[s.StoreId] = s
	}
	for _, s := range after.Stores {
		x := storeRate{ID: s.StoreId, Host: s.Host, State: s.State, UsedBytes: s.UsedBytes, CapacityBytes: s.CapacityBytes}
		if old := stores[s.StoreId]; old != nil && seconds > 0 {
			a, b := old.Traffic, s.Traffic
			x.SyncsPerSecond, x.WriteBytesPerSecond = rise(a.GetSyncs(), b.GetSyncs())/seconds, rise(a.GetWriteBytes(), b.GetWriteBytes())/seconds
			x.ReadsPerSecond, x.ReadBytesPerSecond = rise(a.GetReads(), b.GetReads())/seconds, rise(a.GetReadBytes(), b.GetReadBytes())/seconds
		}
		v.Stores = append(v.Stores, x)
	}
	return v
}

// add sums up; latencies are weighed by how many requests they are of.
func (r *rateView) add(x *rateView, timed *[2][2]float64) {
	r.ReadIOPS, r.WriteIOPS, r.OtherIOPS = r.ReadIOPS+x.ReadIOPS, r.WriteIOPS+x.WriteIOPS, r.OtherIOPS+x.OtherIOPS
	r.ReadBytesPerSecond, r.WriteBytesPerSecond = r.ReadBytesPerSecond+x.ReadBytesPerSecond, r.WriteBytesPerSecond+x.WriteBytesPerSecond
	r.FailedPerSecond += x.FailedPerSecond
	weigh := func(t *[2]float64, latency, n float64) float64 {
		if latency > 0 {
			t[0], t[1] = t[0]+latency*n, t[1]+n
		}
		if t[1] == 0 {
			return 0
		}
		return t[0] / t[1]
	}
	r.ReadLatencyUs = weigh(&timed[0], x.ReadLatencyUs, x.ReadIOPS)
	r.WriteLatencyUs = weigh(&timed[1], x.WriteLatencyUs, x.WriteIOPS)
}

// order puts the disks as the user wants them.
func (c *topCommand) order(v *topView) {
	slices.SortStableFunc(v.Disks, func(a, b diskRateView) int {
		by := 0
		switch c.Sort {
		case "iops":
			by = cmp.Compare(b.iops(), a.iops())
		case "bandwidth":
			by = cmp.Compare(b.bytes(), a.bytes())
		case "latency":
			by = cmp.Compare(max(b.ReadLatencyUs, b.WriteLatencyUs), max(a.ReadLatencyUs, a.WriteLatencyUs))
		}
		return cmp.Or(by, cmp.Compare(a.Name, b.Name))
	})
}

// Run is called by kong.
func (c *topCommand) Run(ctx context.Context, s *session) error {
	every := c.Every
	if every < everyMin {
		return &hinted{fmt.Errorf("--every %s: %w", every, errs.ErrInvalid), "metad is asked each time: give at least " + everyMin.String()}
	}
	return s.hold(func(cl Cluster) error {
		before, err := look(ctx, s, cl)
		if err != nil {
			return err
		}
		seen := s.Clock.Now()
		var last topView
		for {
			if s.Clock.Sleep(ctx, every) != nil {
				return nil
			}
			after, err := look(ctx, s, cl)
			switch {
			case err == nil && after.AtUnixMs == before.AtUnixMs:
				continue
			case err == nil:
				last, seen = viewTop(before, after), s.Clock.Now()
				c.order(&last)
				before = after
			case ctx.Err() != nil:
				return nil
			case c.Once || !unreachable(err):
				return err
			}
			if err := c.draw(s, last, err, s.Clock.Now()-seen); err != nil || c.Once {
				return err
			}
		}
	})
}

// lookTimeout is how long a look may take: who watches wants to see that metad is away.
const lookTimeout = 5 * time.Second

func look(ctx context.Context, s *session, cl Cluster) (*api.StatusReply, error) {
	ctx, cancel := context.WithTimeout(ctx, min(s.flags.Timeout, lookTimeout))
	defer cancel()
	return cl.Status(ctx, true)
}

// draw prints one look. silent is why there is no new one, since a while.
func (c *topCommand) draw(s *session, v topView, silent error, since time.Duration) error {
	if s.flags.Output == "json" {
		if silent != nil {
			fmt.Fprintf(s.Err, "ashlar: %v\n", silent)
			return nil
		}
		if c.Once {
			return s.show(v, nil)
		}
		line, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("print JSON: %w", err)
		}
		_, err = fmt.Fprintf(s.Out, "%s\n", line)
		return err
	}
	var page bytes.Buffer
	if silent != nil {
		fmt.Fprintf(&page, "metad does not answer for %s: %v\n", since.Round(time.Second), silent)
	}
	c.print(&page, &v)
	rows, terminal := terminalRows(s.Out)
	if terminal && !c.Once {
		fitted := fit(page.String(), rows)
		_, err := io.WriteString(s.Out, "\x1b[H\x1b[2J"+fitted) // home, clear
		return err
	}
	if !c.Once {
		page.WriteByte('\n')
	}
	_, err := s.Out.Write(page.Bytes())
	return err
}

// terminalRows is the height of the terminal that w is, if it is one.
func terminalRows(w io.Writer) (int, bool) {
	f, ok := w.(*os.File)
	if !ok {
		return 0, false
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, false
	}
	return int(size.Row), true
}

// fit cuts a page to the rows of a terminal.
func fit(page string, rows int) string {
	lines := strings.SplitAfter(page, "\n")
	if rows < 2 || len(lines) <= rows {
		return page
	}
	return strings.Join(lines[:rows-1], "")
}

func (c *topCommand) print(w io.Writer, v *topView) {
	line := v.Health
	if v.Health != "OK" && v.Summary != "" {
		line += ": " + v.Summary
	}
	fmt.Fprintf(w, "%s  health %s\n", v.At, line)
	t := &v.Total
	fmt.Fprintf(w, "reads %s/s, %s/s, %s   writes %s/s, %s/s, %s   %d disks\n", count(t.ReadIOPS), rate(t.ReadBytesPerSecond), latency(t.ReadLatencyUs),
		count(t.WriteIOPS), rate(t.WriteBytesPerSecond), latency(t.WriteLatencyUs), len(v.Disks))
	if v.Repair.Groups > 0 {
		fmt.Fprintf(w, "repair %d groups, %s to go at %s/s\n", v.Repair.Groups, size(v.Repair.BytesLeft), size(v.Repair.BytesPerSecond))
	}
	if v.Cleaning.BytesLeft > 0 {
		fmt.Fprintf(w, "clean  %s to give back at %s/s\n", size(v.Cleaning.BytesLeft), size(v.Cleaning.BytesPerSecond))
	}
	var rows [][]string
	for i, d := range v.Disks {
		if c.Disks > 0 && i == c.Disks {
			break
		}
		rows = append(rows, []string{d.Name, d.State, dash(d.Owner), count(d.ReadIOPS), rate(d.ReadBytesPerSecond), latency(d.ReadLatencyUs),
			count(d.WriteIOPS), rate(d.WriteBytesPerSecond), latency(d.WriteLatencyUs)})
	}
	fmt.Fprintln(w)
	table(w, []string{"DISK", "STATE", "OWNER", "READS/S", "", "LATENCY", "WRITES/S", "", "LATENCY"}, rows)
	rows = nil
	for _, x := range v.Stores {
		rows = append(rows, []string{x.ID, x.Host, x.State, percent(x.UsedBytes, x.CapacityBytes), count(x.SyncsPerSecond), rate(x.WriteBytesPerSecond) + "/s",
			count(x.ReadsPerSecond), rate(x.ReadBytesPerSecond) + "/s"})
	}
	fmt.Fprintln(w)
	table(w, []string{"STORE", "BLOCKD", "STATE", "USED", "SYNCS/S", "WRITTEN", "READS/S", "READ"}, rows)
}

func count(x float64) string {
	switch {
	case x >= 9950:
		return strconv.FormatFloat(x/1000, 'f', 1, 64) + "k"
	default:
		return strconv.FormatFloat(x, 'f', 0, 64)
	}
}

func rate(x float64) string { return size(uint64(max(x, 0))) }

func latency(us float64) string {
	if us == 0 {
		return "-"
	}
	d := time.Duration(us * float64(time.Microsecond))
	if d < 10*time.Millisecond {
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Millisecond).String()
}
