package storeproto

// Corker is for stores that gain from requests that come together, as those across a
// connection do. A caller that has several to make calls Cork before them and Uncork
// after; in between, until the next Uncork of anyone, the store may hold appends, confirms
// and reads back. Both are safe for concurrent use and do not wait.
type Corker interface {
	Cork()
	Uncork()
}
