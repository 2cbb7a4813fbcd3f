package archive_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/archive/archivetest"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/objectstore"
	"ashlar.dev/pkg/objectstore/objectstoretest"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/vfs"
)

var ctx = context.Background()

func secret(t testing.TB) *archive.Secret {
	t.Helper()
	s, err := archive.NewSecret(bytes.Repeat([]byte{5}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// disk makes one of which some is written, some of that again, archived twice: whole, and against that.
func disk(t testing.TB, store objectstore.Store, s *archive.Secret) (*archivetest.Disk, *archive.Manifest) {
	t.Helper()
	d, err := archivetest.NewDisk(3000, 1)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(2, 3))
	some := func(n int) (out []block.LBA) {
		seen := map[block.LBA]bool{}
		for len(out) < n {
			if l := block.LBA(rng.Uint64N(3000)); !seen[l] {
				seen[l] = true
				out = append(out, l)
			}
		}
		return out
	}
	d.Write(some(180), 50)
	base, err := d.Archive(ctx, store, nil, s, 2)
	if err != nil {
		t.Fatal(err)
	}
	d.Write(some(50), 17)
	m, err := d.Archive(ctx, store, base, s, 2)
	if err != nil {
		t.Fatal(err)
	}
	return d, m
}

// flat reads an archived snapshot as a flat image.
func flat(t testing.TB, r *archive.Reader) []byte {
	t.Helper()
	out := make([]byte, r.Manifest().Blocks*block.Size)
	w, data := r.NewWalker(), r.NewWalker()
	if err := w.Blocks(ctx, func(l block.LBA, loc id.Location) error {
		b, err := data.At(ctx, loc, segment.MakeData(l))
		copy(out[l*block.Size:], b)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// Without this what comes back is not what was archived.
func TestArchivedDiskComesBack(t *testing.T) {
	for name, s := range map[string]*archive.Secret{"plain": nil, "encrypted": secret(t)} {
		t.Run(name, func(t *testing.T) {
			store := objectstoretest.NewMemory()
			d, want := disk(t, store, s)
			m, err := archive.ReadManifest(ctx, store, archive.ManifestKey(want.Volume, want.Snapshot), s)
			if err != nil {
				t.Fatal(err)
			}
			r := archive.NewReader(store, m, s)
			if !bytes.Equal(flat(t, r), d.Image) {
				t.Fatal("other bytes came back")
			}
			p, err := r.Verify(ctx, s, nil)
			if err != nil || p.Objects != p.ObjectsAll || p.Bytes != p.BytesAll || p.Blocks == 0 {
				t.Fatalf("%+v %v", p, err)
			}
			for i, x := range m.Segments {
				part, data, err := r.Segment(ctx, i)
				if err != nil || part.Segment != x.ID || len(data) != int(x.Slots)*block.Size {
					t.Fatal(err)
				}
				dst := make([]byte, block.Size)
				slot, err := r.Block(ctx, id.MakeLocation(x.ID, part.Slots[len(part.Slots)-1].Number), dst)
				if err != nil || slot != part.Slots[len(part.Slots)-1] || !bytes.Equal(dst, data[len(data)-block.Size:]) {
					t.Fatal(err)
				}
			}
		})
	}
}

// Without this nobody could read the archive when the program is gone.
func TestRestoredWithoutAshlar(t *testing.T) {
	dir := t.TempDir()
	tool := filepath.Join(dir, "restore")
	if out, err := exec.Command("go", "build", "-o", tool, "./restore").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, s := range map[string]*archive.Secret{"plain": nil, "encrypted": secret(t)} {
		place := filepath.Join(dir, name)
		store, err := objectstore.NewDirectory(vfs.OS, place)
		if err != nil {
			t.Fatal(err)
		}
		d, m := disk(t, store, s)
		args := []string{place, archive.ManifestKey(m.Volume, m.Snapshot), place + ".raw"}
		if s != nil {
			key := filepath.Join(dir, "key")
			if err := os.WriteFile(key, []byte(hex.EncodeToString(bytes.Repeat([]byte{5}, 32))+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			args = append(args, key)
		}
		if out, err := exec.Command(tool, args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		got, err := os.ReadFile(place + ".raw")
		if err != nil || !bytes.Equal(got, d.Image) {
			t.Fatalf("%s: other bytes came back (%v)", name, err)
		}
	}
	text, err := os.ReadFile("restore/main.go")
	if n := bytes.Count(text, []byte("\n")); err != nil || n > 200 || bytes.Contains(text, []byte(`"ashlar.dev`)) {
		t.Errorf("the restorer has %d lines, or needs Ashlar", n)
	}
}

// Without this a damaged or missing object would come back as other bytes, or as zeros.
func TestDamageIsReported(t *testing.T) {
	for name, s := range map[string]*archive.Secret{"plain": nil, "encrypted": secret(t)} {
		t.Run(name, func(t *testing.T) {
			store := objectstoretest.NewMemory()
			d, m := disk(t, store, s)
			rng := rand.New(rand.NewPCG(7, 7))
			for try := range 12 {
				o := m.Objects[rng.IntN(len(m.Objects))]
				was := make([]byte, o.Size)
				if err := store.ReadAt(ctx, o.Key, was, 0); err != nil {
					t.Fatal(err)
				}
				bad := bytes.Clone(was)
				switch try % 4 {
				case 0: // gone
					if err := store.Delete(ctx, o.Key); err != nil {
						t.Fatal(err)
					}
					bad = nil
				case 1: // shorter
					bad = bad[:rng.IntN(len(bad))]
				case 2: // a bit
					bad[rng.IntN(len(bad))] ^= 1 << rng.IntN(8)
				case 3: // another object in its place
					other := m.Objects[(rng.IntN(len(m.Objects)))]
					if other.Key == o.Key {
						continue
					}
					bad = make([]byte, other.Size)
					if err := store.ReadAt(ctx, other.Key, bad, 0); err != nil {
						t.Fatal(err)
					}
				}
				if bad != nil {
					if err := store.Put(ctx, o.Key, bad); err != nil {
						t.Fatal(err)
					}
				}
				r := archive.NewReader(store, m, s)
				if _, err := r.Verify(ctx, s, nil); !errors.Is(err, errs.ErrCorrupt) && !errors.Is(err, errs.ErrNotFound) {
					t.Fatalf("try %d: verified: %v", try, err)
				}
				w, data := r.NewWalker(), r.NewWalker()
				_ = w.Blocks(ctx, func(l block.LBA, loc id.Location) error { // it may or may not meet the damage
					b, err := data.At(ctx, loc, segment.MakeData(l))
					if err == nil && !bytes.Equal(b, d.Image[l*block.Size:][:block.Size]) {
						t.Fatalf("try %d: block %d came back as other bytes", try, l)
					}
					return err
				})
				if err := store.Put(ctx, o.Key, was); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// Without this a wrong key would look like damage, and a key in an error would be no secret.
func TestKeys(t *testing.T) {
	store := objectstoretest.NewMemory()
	_, m := disk(t, store, secret(t))
	key := archive.ManifestKey(m.Volume, m.Snapshot)
	other, err := archive.ParseSecret([]byte(strings.Repeat("ab", 32) + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*archive.Secret{nil, other} {
		if _, err := archive.ReadManifest(ctx, store, key, s); !errors.Is(err, errs.ErrDenied) {
			t.Errorf("%s: %v", s, err)
		} else if strings.Contains(err.Error(), "abab") {
			t.Error(err)
		}
	}
	var all []byte
	list, err := store.List(ctx, "", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range list {
		b := make([]byte, i.Size)
		if err := store.ReadAt(ctx, i.Key, b, 0); err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	if bytes.Contains(all, bytes.Repeat([]byte{7, 7, 7}, 2)) || bytes.Contains(all, []byte("snap")) {
		t.Error("an encrypted archive shows what is in it")
	}
	if _, err := archive.ParseSecret([]byte("secret")); !errors.Is(err, errs.ErrInvalid) || strings.Contains(err.Error(), "secret\"") {
		t.Error(err)
	}
}

// Without this a program that died could not go on from what it had uploaded.
func TestObjectsDescribeThemselves(t *testing.T) {
	for _, s := range []*archive.Secret{nil, secret(t)} {
		store := objectstoretest.NewMemory()
		_, m := disk(t, store, s)
		base, err := archive.ReadManifest(ctx, store, archive.ManifestKey(m.Volume, m.Base), s)
		if err != nil {
			t.Fatal(err)
		}
		above := base.Watermark
		for i, o := range m.Objects {
			b := make([]byte, o.Size)
			if err := store.ReadAt(ctx, o.Key, b, 0); err != nil {
				t.Fatal(err)
			}
			got, parts, err := archive.ParseObject(o.Key, b, s, nil)
			if err != nil || got != o {
				t.Fatalf("%+v, want %+v: %v", got, o, err)
			}
			for _, p := range parts {
				p.Object = uint32(i)
				if x, ok := m.Find(p.ID); !ok && p.ID.Sequence() > above || ok && m.Segments[x] != p { // of the base, what is held alone is in the manifest
					t.Fatalf("%+v is not in the manifest", p)
				}
			}
		}
	}
}
