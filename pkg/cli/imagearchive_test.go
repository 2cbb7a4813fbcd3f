package cli

import (
	"strings"
	"testing"
)

// Without this what is archived could be an image only by way of a disk that somebody makes and deletes by hand; and one
// that fails would leave that disk behind.
func TestImageOfWhatIsArchived(t *testing.T) {
	x := newTerminal(t)
	out := x.must("image create gold --from-archive manifests/m --hydrate 50MiB")
	if !strings.Contains(out, "created image gold") || !strings.Contains(out, "from archived manifests/m") || !strings.Contains(out, "--from-image gold") {
		t.Error(out)
	}
	if len(x.fake.images) != 1 || len(x.fake.disks) != 0 {
		t.Errorf("%d images, %d disks are left", len(x.fake.images), len(x.fake.disks))
	}
	for line, want := range map[string]int{
		"image create gold --from-archive manifests/m":                codeConflict,
		"image create other --from-archive manifests/none":            codeNotFound,
		"image create other --from-archive manifests/m --from-disk d": codeUsage,
		"image create other --from-disk d --hydrate 10MiB":            codeUsage,
	} {
		if code := x.run(line); code != want {
			t.Errorf("%s: exit code %d, want %d", line, code, want)
		}
	}
	if len(x.fake.disks) != 0 {
		t.Errorf("disk %s is left", x.fake.disks[0].Name)
	}
}
