// Command restore writes an archived snapshot into a file, from a directory that has the
// archive's objects under their keys. It uses nothing of Ashlar: it is here so that the bytes
// outlive the program, and shows in 200 lines how ../FORMAT.md is read.
//
//	restore DIRECTORY manifests/DISK/SNAPSHOT OUTPUT [FILE WITH THE KEY]
package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
)

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	secret     []byte
	unzstd, _  = zstd.NewReader(nil)
)

func check(ok bool, what string, args ...any) {
	if !ok {
		fmt.Fprintf(os.Stderr, "restore: "+what+"\n", args...)
		os.Exit(1)
	}
}

func must[T any](v T, err error) T {
	check(err == nil, "%v", err)
	return v
}

// open undoes AES-256-GCM under the key of a salt.
func open(sealed, salt, about []byte, what string, nonce uint64) []byte {
	if bytes.Equal(salt, make([]byte, 16)) {
		return sealed
	}
	check(len(secret) == 32, "the archive is encrypted: name a file with its key")
	key := must(hkdf.Key(sha256.New, secret, salt, "ashlar archive "+what, 32))
	gcm := must(cipher.NewGCM(must(aes.NewCipher(key))))
	return must(gcm.Open(nil, append(le.AppendUint64(nil, nonce), 0, 0, 0, 0), sealed, about))
}

func inflate(b []byte) []byte { return must(unzstd.DecodeAll(b, nil)) }

// cursor reads fields one after the other.
type cursor struct{ b []byte }

func (c *cursor) take(n int) []byte {
	check(n <= len(c.b), "the manifest ends too soon")
	out := c.b[:n]
	c.b = c.b[n:]
	return out
}
func (c *cursor) u64() uint64 { return le.Uint64(c.take(8)) }
func (c *cursor) u32() uint32 { return le.Uint32(c.take(4)) }
func (c *cursor) text() string {
	n, used := binary.Uvarint(c.b)
	check(used > 0, "the manifest ends too soon")
	c.take(used)
	return string(c.take(int(n)))
}

type object struct {
	key       string
	size      uint64
	sha, salt []byte
}

type part struct {
	segment                      uint64
	object, offset, length, head uint32
}

type slot struct{ segment, number uint64 }
type block struct {
	entry uint64
	data  []byte
}

func main() {
	check(len(os.Args) == 4 || len(os.Args) == 5, "usage: restore DIRECTORY MANIFEST OUTPUT [KEYFILE]")
	if len(os.Args) == 5 {
		secret = must(hex.DecodeString(string(bytes.TrimSpace(must(os.ReadFile(os.Args[4]))))))
	}
	dir := os.Args[1]
	read := func(key string) []byte { return must(os.ReadFile(filepath.Join(dir, filepath.FromSlash(key)))) }

	blocks, root, height, objects, parts := readManifest(read(os.Args[2]))
	// Pages of the map are kept in memory, blocks go to where a scratch file has room for them; the
	// map says afterwards which are wanted where.
	pages := map[slot]block{}
	scratch := must(os.CreateTemp(filepath.Dir(os.Args[3]), "restore"))
	defer os.Remove(scratch.Name())
	places, end := map[slot][2]uint64{}, uint64(0) // entry and place
	have, body := -1, []byte(nil)
	for _, p := range parts {
		o := objects[p.object]
		if have != int(p.object) {
			body, have = read(o.key), int(p.object)
			sum := sha256.Sum256(body)
			check(uint64(len(body)) == o.size && bytes.Equal(sum[:], o.sha), "object %s is damaged", o.key)
		}
		for s, b := range readPart(body[p.offset:p.offset+p.length], p, o.salt) {
			if b.entry>>56 == 2 { // a page of the map
				pages[s] = b
				continue
			}
			must(scratch.WriteAt(b.data, int64(end)))
			places[s] = [2]uint64{b.entry, end}
			end += 4096
		}
	}

	// The map, from its root: 512 locations a page.
	out := must(os.OpenFile(os.Args[3], os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600))
	check(out.Truncate(int64(blocks*4096)) == nil, "cannot set the size of %s", os.Args[3])
	buf := make([]byte, 4096)
	var walk func(location uint64, level, index uint64)
	walk = func(location uint64, level, index uint64) {
		p, ok := pages[slot{location >> 12, location & 4095}]
		check(ok && p.entry == 2<<56|level<<40|index, "page %d.%d of the map is not in the archive", level, index)
		for j := range uint64(512) {
			kid, i := le.Uint64(p.data[8*j:]), index*512+j
			switch {
			case kid == 0: // a hole
			case level > 0:
				walk(kid, level-1, i)
			default:
				at, ok := places[slot{kid >> 12, kid & 4095}]
				check(ok && at[0] == 1<<56|i && i < blocks, "block %d is not in the archive", i)
				must(scratch.ReadAt(buf, int64(at[1])))
				must(out.WriteAt(buf, int64(i*4096)))
			}
		}
	}
	if root != 0 {
		walk(root, height-1, 0)
	}
	check(out.Sync() == nil && out.Close() == nil, "cannot write %s", os.Args[3])
}

func readManifest(m []byte) (blocks, root, height uint64, objects []object, parts []part) {
	check(len(m) >= 80 && le.Uint32(m) == 0x4d485341 && le.Uint16(m[4:]) == 1, "this is no manifest of version 1")
	sum := sha256.Sum256(m[:len(m)-32])
	check(bytes.Equal(sum[:], m[len(m)-32:]), "the manifest is damaged")
	c := &cursor{inflate(open(m[48:len(m)-32], m[16:32], m[:48], "manifest", 0))}
	c.take(64) // ids of cluster, disk, snapshot, base
	blocks = c.u64()
	c.take(16) // time, watermark
	root, height = c.u64(), uint64(c.take(2)[0])
	fmt.Printf("disk %s, snapshot %s, %d bytes\n", c.text(), c.text(), blocks*4096)
	objects, parts = make([]object, c.u32()), make([]part, c.u32())
	for i := range objects {
		objects[i] = object{c.text(), c.u64(), c.take(32), c.take(16)}
	}
	for i := range parts {
		parts[i] = part{segment: c.u64(), object: c.u32(), offset: c.u32(), length: c.u32(), head: c.u32()}
		c.take(2)
	}
	return blocks, root, height, objects, parts
}

// readPart gives the slots of a part, each checked.
func readPart(b []byte, p part, salt []byte) map[slot]block {
	check(le.Uint32(b) == 0x50485341 && le.Uint64(b[4:]) == p.segment, "a part of segment %x is elsewhere", p.segment)
	crc := crc32.Update(crc32.Checksum(b[:20], castagnoli), castagnoli, b[24:p.head])
	check(crc == le.Uint32(b[20:]), "a part of segment %x is damaged", p.segment)
	n := int(le.Uint16(b[12:]))
	t := inflate(open(b[24:p.head], salt, b[:20], "object", uint64(p.offset)))
	groups, rest := (n+15)/16, b[p.head:]
	check(len(t) == 14*n+4*groups, "a table of segment %x is damaged", p.segment)
	out := make(map[slot]block, n)
	for g := range groups {
		x := le.Uint32(t[14*n+4*g:])
		plain := open(rest[:x>>1], salt, nil, "object", uint64(p.offset)+1+uint64(g))
		rest = rest[x>>1:]
		if x&1 == 1 {
			plain = inflate(plain)
		}
		for i := g * 16; i < min(g*16+16, n); i++ {
			data := plain[(i-g*16)*4096:][:4096]
			check(crc32.Checksum(data, castagnoli) == le.Uint32(t[10*n+4*i:]), "slot %d of segment %x is damaged", i, p.segment)
			out[slot{p.segment, uint64(le.Uint16(t[2*i:]))}] = block{le.Uint64(t[2*n+8*i:]), data}
		}
	}
	return out
}
