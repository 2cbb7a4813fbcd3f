package cli

import (
	"fmt"
	"strings"
	"testing"

	"ashlar.dev/pkg/api"
)

// Without this a policy would run at other times than people wrote, or keep snapshots for another time.
func TestPoliciesAreWrittenAsPeopleDo(t *testing.T) {
	for text, want := range map[string]uint32{"": 127, "mon": 2, "mon,wed": 10, "mon-fri": 62, "fri-mon": 99, "Sunday, saturday": 65, "MON-mon": 2} {
		if got, err := parseDays(text); err != nil || got != want {
			t.Errorf("days %q: %d %v, want %d", text, got, err, want)
		}
	}
	for text, want := range map[string]uint64{"": 0, "7d": 604800, "12h": 43200, "4w": 2419200, "30m": 1800} {
		if got, err := parseRetain(text); err != nil || got != want {
			t.Errorf("time %q: %d %v, want %d", text, got, err, want)
		}
	}
	x := newTerminal(t)
	if got := x.must("policy list"); !strings.Contains(got, "policy create") {
		t.Errorf("printed %s", got)
	}
	v := decode[policyView](t, x.must("policy create nightly --at 14:00 --at 02:00 --weekdays mon-fri --retain 7d --keep 9 -o json"))
	if fmt.Sprint(v.At, v.Weekdays, v.RetainSec, v.Keep) != "[02:00 14:00] [mon tue wed thu fri] 604800 9" {
		t.Errorf("%+v", v)
	}
	if got := x.must("policy apply nightly a b"); !strings.Contains(got, "a, b") || !strings.Contains(got, "no run yet") || !strings.Contains(got, "02:00, 14:00 UTC, mon,tue,wed,thu,fri") {
		t.Errorf("printed %s", got)
	}
	x.must("policy remove nightly a")
	x.must("policy change nightly --at 03:30 --retain 36h")
	x.fake.policies[0].Runs = []*api.PolicyRun{{DueUnixMs: 1, Taken: 2}, {DueUnixMs: 2, Skipped: "late"}, {DueUnixMs: 3, Failed: 1, Failures: []*api.PolicyFailure{{Disk: "b", Why: "away"}}}}
	if got := x.must("policy show nightly"); !strings.Contains(got, "b: away") || !strings.Contains(got, "late") || !strings.Contains(got, "36h") {
		t.Errorf("printed %s", got)
	}
	if got := x.must("policy list"); !strings.Contains(got, "failed") || !strings.Contains(got, "every day") {
		t.Errorf("printed %s", got)
	}
	for line, want := range map[string]string{
		"policy create x --at 25:00 --keep 1":                "02:00",
		"policy create x --at 02:00":                         "--retain",
		"policy create x --at 02:00 --weekdays foo --keep 1": "mon-fri",
		"policy create x --at 02:00 --retain 7":              "7d",
		"policy create x --at 02:00 --retain d":              "7d",
		"policy create nightly --at 02:00 --keep 1":          "policy change nightly",
		"policy show none":                                   "policy list",
		"policy apply none a":                                "policy list",
	} {
		if code := x.run(line); code == 0 || !strings.Contains(x.err.String(), want) {
			t.Errorf("%s: %d %s", line, code, x.err.String())
		}
	}
	if got := x.must("policy delete nightly"); !strings.Contains(got, "stay") {
		t.Errorf("printed %s", got)
	}
}
