package restore

import (
	"container/list"
	"sync"
)

// cache keeps the values used last, up to a number of them. They are shared and not to be
// changed. Whoever misses one that another is fetching waits for that one.
type cache[K comparable, V any] struct {
	most int

	mu struct {
		sync.Mutex
		byKey map[K]*list.Element
		order *list.List // of entries, the one used last in front
		going map[K]*flight[V]
	}
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

// flight is a value on its way.
type flight[V any] struct {
	done  chan struct{}
	value V
	err   error
}

func newCache[K comparable, V any](most int) *cache[K, V] {
	c := &cache[K, V]{most: max(most, 1)}
	c.mu.byKey, c.mu.order, c.mu.going = make(map[K]*list.Element), list.New(), make(map[K]*flight[V])
	return c
}

// claim looks a key up. Else it gives the flight to wait for, and whether it is the caller's to land.
func (c *cache[K, V]) claim(k K) (v V, there bool, f *flight[V], ours bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.mu.byKey[k]; ok {
		c.mu.order.MoveToFront(e)
		return e.Value.(*entry[K, V]).value, true, nil, false
	}
	if f, ok := c.mu.going[k]; ok {
		return v, false, f, false
	}
	f = &flight[V]{done: make(chan struct{})}
	c.mu.going[k] = f
	return v, false, f, true
}

// try claims a key that neither is there nor on its way.
func (c *cache[K, V]) try(k K) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.mu.byKey[k]; ok || c.mu.going[k] != nil {
		return false
	}
	c.mu.going[k] = &flight[V]{done: make(chan struct{})}
	return true
}

// land ends a flight that was claimed.
func (c *cache[K, V]) land(k K, v V, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.mu.going[k]
	delete(c.mu.going, k)
	f.value, f.err = v, err
	close(f.done)
	if err != nil {
		return
	}
	c.mu.byKey[k] = c.mu.order.PushFront(&entry[K, V]{k, v})
	for c.mu.order.Len() > c.most {
		last := c.mu.order.Back()
		c.mu.order.Remove(last)
		delete(c.mu.byKey, last.Value.(*entry[K, V]).key)
	}
}
