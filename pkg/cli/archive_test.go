package cli

import (
	"strings"
	"testing"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
)

// Without this nobody could bring a snapshot into the archive, see how that went, or look after what is there.
func TestArchiveCommands(t *testing.T) {
	x := newTerminal(t)
	x.fake.clock = clock.System // it waits
	for _, c := range []struct {
		line string
		code int
		want []string
	}{
		{"snapshot archive db", 2, []string{"DISK@NAME"}},
		{"snapshot archive db@one", 0, []string{"db@one is queued", "--wait follows it"}},
		{"snapshot archive db@one --cancel", 0, []string{"not on its way"}},
		{"snapshot archive db@one --wait", 0, []string{"db@one is archived (whole): 20 MiB stored"}},
		{"snapshot archive db@bad --wait", 1, []string{"db@bad is not archived: the bucket is gone", "goes on where it ended"}},
		{"archive list", 0, []string{"gone", "monday", "5 MiB changes", "9 MiB"}},
		{"archive list other", 0, []string{"nothing there in file:///archive"}},
		{"archive usage", 0, []string{"2 snapshots need 3 objects, 5 MiB"}},
		{"archive gc", 0, []string{"reclaimed 3 objects"}},
		{"archive gc --dry-run", 0, []string{"would reclaim 3 objects"}},
		{"archive gc --grace 5s", 2, []string{"at least 1m0s"}},
		{"snapshot verify gone@monday", 0, []string{"gone@monday is whole: 3 objects"}},
		{"snapshot verify gone@never", 3, []string{"ashlar archive list"}},
		{"disk create back --from-snapshot gone@monday", 3, []string{"and it is in the archive", "ashlar disk create back --from-archive manifests/d-9/s-9"}},
		{"disk create back --from-snapshot gone@never", 3, []string{"ashlar snapshot list"}},
		{"snapshot copy gone@monday --to file:///other/", 0, []string{"gone@monday is in file:///other: 3 objects, 5 MiB, of which 1 were there already", "--from-archive manifests/d-9/s-9"}},
		{"snapshot copy gone@monday --to s3://host/b", 2, []string{"--credentials FILE"}},
		{"snapshot copy gone@monday --to /other", 2, []string{"want file:///FOLDER or s3://HOST"}},
		{"snapshot copy gone@monday --to file:///other/ --lock 30d", 2, []string{"only a bucket of S3 can lock"}},
		{"snapshot copy gone@monday --to s3://host/b --lock-mode never", 2, []string{"--lock-mode"}},
		{"snapshot copy gone@monday", 2, []string{"--to"}},
		{"archive delete gone@monday", 0, []string{"not in the archive any more"}},
		{"archive list -o json", 0, []string{`"manifest": "manifests/d-9/s-9"`, `"base": "s-8"`}},
	} {
		code := x.run(c.line)
		text := x.out.String() + x.err.String()
		if code != c.code {
			t.Errorf("%s: exit code %d, want %d: %s", c.line, code, c.code, text)
		}
		for _, want := range c.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s: lacks %q:\n%s", c.line, want, text)
			}
		}
	}
}

// Without this whoever has a bucket that does not answer would look for what is wrong with a cluster that runs.
func TestArchiveThatIsAwayIsNotTheClusters(t *testing.T) {
	x := newTerminal(t)
	x.fake.clock, x.fake.taskErr = clock.System, errs.ErrUnavailable
	if code := x.run("archive usage"); code != codeUnavailable || !strings.Contains(x.err.String(), "does not reach its archive") || strings.Contains(x.err.String(), "is the cluster running") {
		t.Errorf("%d %s", code, x.err.String())
	}
}

// Without this whoever waits would see nothing, or a percentage that lies.
func TestProgressBar(t *testing.T) {
	if got, want := progressBar(25<<20, 100<<20, 5<<20), "[########------------------------]  25%  25 MiB of 100 MiB  5 MiB/s  15s left"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
