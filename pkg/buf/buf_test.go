package buf

import (
	"sync"
	"testing"
)

// Without this O_DIRECT writes from a buffer would fail, or a class would be too small for what it was asked.
func TestEverySizeFitsAlignedAndWastesLittle(t *testing.T) {
	sizes := []int{0, 1, 511, LenMax - 1, LenMax}
	for pages := 1; pages <= 1024; pages++ {
		sizes = append(sizes, pages*Align-1, pages*Align, pages*Align+1)
	}
	for pages := 1 << 10; pages < LenMax/Align; pages = pages*9/8 + 1 {
		sizes = append(sizes, pages*Align-1, pages*Align, pages*Align+1)
	}
	for _, n := range sizes {
		class := classOf(n)
		got := classBytes(class)
		if class < 0 || class >= classCount || got < n {
			t.Fatalf("%d bytes: class %d of %d bytes", n, class, got)
		}
		if class > 0 && classBytes(class-1) >= max(n, 1) {
			t.Fatalf("%d bytes: class %d, but %d bytes would do", n, class, classBytes(class-1))
		}
		if n > 8*Align && got*4 > (n+Align)*5 {
			t.Fatalf("%d bytes: class of %d bytes wastes more than a quarter", n, got)
		}
	}
	if classBytes(classCount-1) != LenMax {
		t.Fatalf("the last class has %d bytes", classBytes(classCount-1))
	}
	for class := range classCount - 8 {
		b := Get(classBytes(class))
		if misplaced(b.Bytes()) != 0 || b.Len() != classBytes(class) || b.Cap() != b.Len() {
			t.Fatalf("class %d: misplaced by %d, len %d, cap %d", class, misplaced(b.Bytes()), b.Len(), b.Cap())
		}
		b.Release()
	}
}

// Without this a payload that the engine keeps would be overwritten by the next request.
func TestBufferReturnsOnlyAfterTheLastHolder(t *testing.T) {
	before := Outstanding()
	b := Get(5000)
	b.Bytes()[4999] = 7
	if u := Outstanding(); u.Buffers != before.Buffers+1 || u.Bytes != before.Bytes+8192 {
		t.Fatalf("outstanding %+v after %+v", u, before)
	}
	b.Retain()
	b.Release()
	if u := Outstanding(); u.Buffers != before.Buffers+1 {
		t.Fatalf("returned while held: %+v", u)
	}
	b.Release()
	if u := Outstanding(); u != before {
		t.Fatalf("outstanding %+v, before %+v", u, before)
	}
	(*Buffer)(nil).Release()
}

// Without this a holder too many would hand one buffer to two requests, silently.
func TestMisuseIsLoud(t *testing.T) {
	for name, f := range map[string]func(){
		"release twice":        func() { b := Get(1); b.Release(); b.Release() },
		"retain after release": func() { b := Get(1); b.Release(); b.Retain() },
		"too long":             func() { Get(LenMax + 1) },
		"negative":             func() { Get(-1) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}

// Without this the pools would hand one buffer to two goroutines under load.
func TestConcurrentHoldersSeeTheirOwnBytes(t *testing.T) {
	var group sync.WaitGroup
	for g := range 8 {
		group.Go(func() {
			for i := range 200 {
				b := Get(1 + (i*977)%20000)
				for j := range b.Bytes() {
					b.Bytes()[j] = byte(g)
				}
				b.Retain().Release()
				for _, v := range b.Bytes() {
					if v != byte(g) {
						t.Errorf("goroutine %d found %d", g, v)
						return
					}
				}
				b.Release()
			}
		})
	}
	group.Wait()
}
