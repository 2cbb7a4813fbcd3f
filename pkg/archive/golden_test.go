package archive

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name string, b []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		var text strings.Builder
		for line := range slices.Chunk(b, 32) {
			text.WriteString(hex.EncodeToString(line) + "\n")
		}
		if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(readGolden(t, name), b) {
		t.Errorf("%s is not what is encoded now: a change of the format needs a new version", name)
	}
}

func readGolden(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.ReplaceAll(string(text), "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func goldenSecret() *Secret {
	s, err := NewSecret(bytes.Repeat([]byte{5}, 32))
	if err != nil {
		panic(err)
	}
	return s
}

// goldenObject has a segment of blocks that compress and do not, and one of a page.
func goldenObject(s *Secret) ([]byte, Object, []Segment) {
	var salt Salt
	if s != nil {
		salt = Salt{1, 2, 3}
	}
	b := &Builder{secret: s}
	b.begin("data/golden/0", salt)
	var slots []Slot
	var data []byte
	for i := range 18 {
		x := bytes.Repeat([]byte{byte(i)}, block.Size)
		slots = append(slots, Slot{uint16(3 * i), segment.MakeData(block.LBA(1000 + i)), codec.CRC(x)})
		data = append(data, x...)
	}
	b.Add(id.MakeSegment(9, 2), slots, data)
	page := make([]byte, block.Size)
	page[9] = 1
	b.Add(id.MakeSegment(11, 1), []Slot{{4095, segment.MakePage(segment.MapPage, 0, 1), codec.CRC(page)}}, page)
	return b.Finish()
}

func goldenManifest(s *Secret) *Manifest {
	_, o, parts := goldenObject(s)
	return &Manifest{Cluster: [16]byte{1}, Volume: id.Volume{2}, VolumeName: "db", Blocks: 5000, Snapshot: id.Snapshot{3}, Name: "monday",
		Created: time.UnixMilli(1_700_000_000_123).UTC(), Consistent: true, Base: id.Snapshot{4}, Watermark: 12,
		Root: blockmap.Root{Location: id.MakeLocation(id.MakeSegment(11, 1), 4095), Height: 1}, Objects: []Object{o}, Segments: parts}
}

// Without this bytes that are kept for years would change their meaning.
func TestGolden(t *testing.T) {
	for suffix, s := range map[string]*Secret{"": nil, "-sealed": goldenSecret()} {
		body, o, parts := goldenObject(s)
		golden(t, "object"+suffix+".golden", body)
		if got, p, err := ParseObject(o.Key, body, s, nil); err != nil || got != o || !reflect.DeepEqual(p, parts) {
			t.Errorf("object%s came back as %+v %+v: %v", suffix, got, p, err)
		}
		m := goldenManifest(s)
		var salt Salt
		if s != nil {
			salt = Salt{9}
		}
		b := encodeManifest(m, s, salt)
		golden(t, "manifest"+suffix+".golden", b)
		if got, err := DecodeManifest("test", b, s); err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("manifest%s came back as %+v: %v", suffix, got, err)
		}
	}
}

// Without this a store's bytes could make a reader crash, loop or swell.
func FuzzDecode(f *testing.F) {
	for _, name := range []string{"object", "object-sealed", "manifest", "manifest-sealed", "backup-sealed"} {
		f.Add(readGolden(f, name+".golden"), false)
	}
	f.Add(appendManifest(nil, goldenManifest(nil)), true)
	f.Add([]byte(BackupKey("c", time.Unix(1<<30, 0), 7)), false)
	f.Fuzz(func(t *testing.T, b []byte, bare bool) {
		if bare { // past the checksum
			m := &Manifest{}
			if codec.Decode("fuzz", b, func(r *codec.Reader) { readManifest(r, m) }) == nil && m.Check("fuzz") == nil {
				if !bytes.Equal(appendManifest(nil, m), b) {
					t.Error("another manifest than was read")
				}
			}
			return
		}
		if k, ok := ParseBackupKey(string(b)); ok && BackupKey(k.Cluster, k.Taken, k.Entry) != string(b) {
			t.Errorf("%q is not the key of %+v", b, k)
		}
		if _, err := ParseSecret(b); err == nil && len(bytes.TrimSpace(b)) != 64 {
			t.Errorf("%q was taken for a key", b)
		}
		for _, s := range []*Secret{nil, goldenSecret()} {
			_, _, _ = ParseObject("fuzz", b, s, nil)
			_, _ = DecodeManifest("fuzz", b, s)
			_, _, _ = DecodeBackup("fuzz", b, s)
			if len(b) > partFixed {
				// A table that passes its checksum.
				b := bytes.Clone(b)
				sum := codec.CRCMore(codec.CRC(b[:20]), b[partFixed:])
				b[20], b[21], b[22], b[23] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
				_, _ = decodePart("fuzz", b, 32, nil)
			}
		}
	})
}

// Without this a manifest could name what is not there and be believed.
func TestManifestsThatCannotBe(t *testing.T) {
	for name, spoil := range map[string]func(*Manifest){
		"segments out of order": func(m *Manifest) { m.Segments[0].ID, m.Segments[1].ID = m.Segments[1].ID, m.Segments[0].ID },
		"a segment twice":       func(m *Manifest) { m.Segments[1].ID = m.Segments[0].ID },
		"above the watermark":   func(m *Manifest) { m.Watermark = 10 },
		"no such object":        func(m *Manifest) { m.Segments[0].Object = 1 },
		"beyond its object":     func(m *Manifest) { m.Segments[1].Length++ },
		"inside the header":     func(m *Manifest) { m.Segments[0].Offset = 3 },
		"no slots":              func(m *Manifest) { m.Segments[0].Slots = 0 },
		"a head beyond it":      func(m *Manifest) { m.Segments[0].Head = m.Segments[0].Length + 1 },
		"a key that is none":    func(m *Manifest) { m.Objects[0].Key = "../x" },
		"a root without height": func(m *Manifest) { m.Root.Height = 0 },
	} {
		m := goldenManifest(nil)
		if spoil(m); m.Check("test") == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
