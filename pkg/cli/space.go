package cli

import (
	"fmt"
	"io"
	"time"

	"ashlar.dev/pkg/api"
)

// roomView is the space of the cluster in JSON. Bytes on stores have their redundancy in them.
type roomView struct {
	CapacityBytes     uint64 `json:"capacityBytes"`
	UsedBytes         uint64 `json:"usedBytes"`
	FreeBytes         uint64 `json:"freeBytes"`        // until stores call themselves full
	ReclaimableBytes  uint64 `json:"reclaimableBytes"` // of those used, about
	UsableBytes       uint64 `json:"usableBytes"`      // of disks, that fit with today's redundancy
	ProvisionedBytes  uint64 `json:"provisionedBytes"` // what all disks promise
	OvercommitPercent uint64 `json:"overcommitPercent"`
}

func viewRoom(x *api.Room) roomView {
	return roomView{CapacityBytes: x.GetCapacityBytes(), UsedBytes: x.GetUsedBytes(), FreeBytes: x.GetFreeBytes(), ReclaimableBytes: x.GetReclaimableBytes(),
		UsableBytes: x.GetUsableBytes(), ProvisionedBytes: x.GetProvisionedBytes(), OvercommitPercent: x.GetOvercommitPercent()}
}

// cleaningView is what cleaners do, in JSON.
type cleaningView struct {
	Active         bool   `json:"active"`
	BytesLeft      uint64 `json:"bytesLeft"` // dead beyond what may lie about
	BytesDone      uint64 `json:"bytesDone"` // given back since the disks were opened
	BytesPerSecond uint64 `json:"bytesPerSecond"`
	SecondsLeft    uint64 `json:"secondsLeft"` // 0: unknown, or nothing is left
	Problem        string `json:"problem,omitempty"`
}

func viewCleaning(x *api.Cleaning) cleaningView {
	return cleaningView{Active: x.GetActive(), BytesLeft: x.GetLeftBytes(), BytesDone: x.GetDoneBytes(), BytesPerSecond: x.GetBytesPerSecond(),
		SecondsLeft: x.GetSecondsLeft(), Problem: x.GetProblem()}
}

// riskView is how much has lost margin, in JSON. Bytes are of disks, without redundancy.
type riskView struct {
	ReducedBytes    uint64 `json:"reducedBytes"`
	NoMarginBytes   uint64 `json:"noMarginBytes"`
	UnreadableBytes uint64 `json:"unreadableBytes"`
	JournalBytes    uint64 `json:"journalBytes"` // not packed yet, in journals without margin
	Margin          uint32 `json:"margin"`       // how many more stores may be lost
}

func viewRisk(x *api.Risk) riskView {
	return riskView{ReducedBytes: x.GetReducedBytes(), NoMarginBytes: x.GetNoMarginBytes(), UnreadableBytes: x.GetUnreadableBytes(),
		JournalBytes: x.GetJournalBytes(), Margin: x.GetMargin()}
}

// spaceView is what a disk's segments hold, in JSON; parity is not counted.
type spaceView struct {
	LiveBytes   uint64 `json:"liveBytes"`
	DeadBytes   uint64 `json:"deadBytes"`
	DoomedBytes uint64 `json:"doomedBytes"` // wholly dead segments, which go with the next checkpoint
	PageBytes   uint64 `json:"pageBytes"`
	Segments    uint64 `json:"segments"`
}

func viewSpace(x *api.Space) *spaceView {
	if x == nil {
		return nil
	}
	return &spaceView{LiveBytes: x.LiveBytes, DeadBytes: x.DeadBytes, DoomedBytes: x.DoomedBytes, PageBytes: x.PageBytes, Segments: x.Segments}
}

func printHealth(w io.Writer, r *api.StatusReply) {
	line := healthWord(r.Health)
	if r.Health != api.Health_HEALTH_OK && r.Summary != "" {
		line += ": " + r.Summary
	}
	fmt.Fprintf(w, "health  %s\n", line)
}

// printRoom says what is used and what is left, and whether the disks promise more than there is.
func printRoom(w io.Writer, x *api.Room) {
	if x == nil { // a metad of an earlier version
		return
	}
	fmt.Fprintf(w, "space   %s of %s used (%s), %s of it reclaimable, %s free\n", size(x.UsedBytes), size(x.CapacityBytes), percent(x.UsedBytes, x.CapacityBytes),
		size(x.ReclaimableBytes), size(x.FreeBytes))
	switch {
	case x.UsableBytes == 0:
	case x.OvercommitPercent > 100:
		fmt.Fprintf(w, "thin    disks promise %s and %s fit: overcommitted %.1f times\n", size(x.ProvisionedBytes), size(x.UsableBytes), float64(x.OvercommitPercent)/100)
	default:
		fmt.Fprintf(w, "thin    disks promise %s of %s that fit\n", size(x.ProvisionedBytes), size(x.UsableBytes))
	}
}

// printCleaning says what the cleaners have before them.
func printCleaning(w io.Writer, x *api.Cleaning) {
	if x.GetLeftBytes() == 0 && x.GetProblem() == "" {
		return
	}
	fmt.Fprintf(w, "clean   %s\n", cleaningText(x))
}

func cleaningText(x *api.Cleaning) string {
	text := size(x.GetLeftBytes()) + " to give back"
	if x.GetBytesPerSecond() > 0 && x.GetLeftBytes() > 0 {
		text += fmt.Sprintf(" at %s/s, about %s", size(x.BytesPerSecond), time.Duration(x.SecondsLeft)*time.Second)
	}
	if x.GetProblem() != "" {
		text += "; " + x.Problem
	}
	return text
}

// reclaimable is the cell of a list: a disk that nobody has open tells nothing.
func reclaimable(d *api.Disk) string {
	if d.Space == nil && d.State != "deleting" {
		return "-"
	}
	return size(d.ReclaimableBytes)
}

func spaceRows(d *api.Disk) [][2]string {
	if d.Space == nil {
		return [][2]string{{"reclaimable", "unknown while no host has it open"}}
	}
	rows := [][2]string{
		{"live", size(d.Space.LiveBytes)}, {"reclaimable", size(d.ReclaimableBytes) + " of what is used, about"},
	}
	if d.GetCleaning().GetLeftBytes() > 0 || d.GetCleaning().GetProblem() != "" {
		rows = append(rows, [2]string{"cleaning", cleaningText(d.Cleaning)})
	}
	return rows
}
