package cluster

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Allowance is a warning that may stand in a log, and why.
type Allowance struct {
	Pattern string // of the line, a regular expression
	Reason  string
}

// Always are the warnings that every cluster may log.
var Always = []Allowance{
	{`level=WARN msg="segment not written, another takes its place" .*, deleted: not found`, "a disk is deleted while its owner, which hears of it with its next heartbeat, packs it"},
	{`level=WARN msg="(connection (lost|ended)|cannot connect)"`, "daemons of one cluster start and end at different moments; peers connect again"},
	{`level=WARN msg="(failed to contact|heartbeat timeout|Election timeout|rejecting (pre-)?vote|unable to get address)`, "Raft members start and end at different moments, and a busy machine misses heartbeats"},
}

// Faults are the warnings that tests may provoke by killing, pausing and cutting off daemons.
var Faults = []Allowance{
	{`level=WARN msg="connection refused"`, "a daemon that starts, or stops, lets nobody in yet, or any more"},
	{`level=WARN msg="(segment not written, another takes its place|dead segments not deleted, will ask again|deleted disk not purged yet)"`, "a store that should take part is dead, paused or cut off"},
	{`level=WARN msg="(store does not do its part|store refused|placement groups cannot be formed|lost leader)"`, "whoever misses a store, a host or the leader says so and goes on"},
	{`level=WARN msg="(disk not opened yet, will try again|drain left disks behind|clients hung up on|close of an nbd export failed|connection to a host not closed cleanly|late close failed)`,
		"a disk is opened, moved or closed while its stores or its owner are away; clients come back"},
	{`level=WARN msg="(accept raft connection failed|failed to |not part of|rejecting |unable to |skipping |appendEntries|heartbeat|election|nodes? )`, "Raft members lose each other"},
	{`level=ERROR msg="(failed to (heartbeat|appendEntries|make requestVote|make requestVote RPC|pipeline|send|replicate|contact|install)|peer has newer term|pre-vote failed)`,
		"Raft calls a peer that does not answer an error; the group goes on with the rest"},
}

const linesShown = 20

// CheckLogs reads the logs of all daemons and complains about warnings that nobody allowed.
func (c *Cluster) CheckLogs() error {
	files, err := filepath.Glob(filepath.Join(c.Dir, "log", "*.log*"))
	if err != nil {
		return fmt.Errorf("find logs: %w", err)
	}
	return CheckLogs(files, append(append([]Allowance{}, Always...), c.o.Allowed...))
}

// CheckLogs complains about WARN and ERROR lines, panics and data races in files.
func CheckLogs(files []string, allowed []Allowance) error {
	var patterns []*regexp.Regexp
	for _, a := range allowed {
		patterns = append(patterns, regexp.MustCompile(a.Pattern))
	}
	var all error
	for _, name := range files {
		all = errors.Join(all, checkLog(name, patterns))
	}
	return all
}

var bad = regexp.MustCompile(`level=(WARN|ERROR)|^panic: |^fatal error: |WARNING: DATA RACE|^goroutine \d+ \[running`)

func checkLog(name string, allowed []*regexp.Regexp) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("check log: %w", err)
	}
	defer f.Close()
	var found []string
	n := 0
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := whole(lines.Text())
		if !bad.MatchString(line) || matchesAny(line, allowed) {
			continue
		}
		if n++; n <= linesShown {
			found = append(found, line)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("check log %s: %w", name, err)
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%s has %d lines that nobody allowed:\n  %s", name, n, strings.Join(found, "\n  "))
}

var begins = regexp.MustCompile(`time=\d{4}-\d\d-\d\dT[\d:.]+Z level=`)

// whole is the line without the first part of another that stands before it, where a daemon was killed
// in the middle of writing that one.
func whole(line string) string {
	if all := begins.FindAllStringIndex(line, -1); len(all) > 0 {
		return line[all[len(all)-1][0]:]
	}
	return line
}

func matchesAny(line string, patterns []*regexp.Regexp) bool {
	for _, p := range patterns {
		if p.MatchString(line) {
			return true
		}
	}
	return false
}
