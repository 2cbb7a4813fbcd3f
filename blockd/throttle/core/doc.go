// Package core decides when the requests of one disk may go: two buckets, of I/Os and of
// bytes, and the connections' queues in front of them.
//
// It is a step function: it reads no clock, starts nothing and waits for nothing. Its
// shell tells the time, hands requests in, and carries out those that may go.
//
// A bucket lets a request go whenever it is not empty, and then takes the whole cost, below
// zero if need be. So a request that is larger than the bucket does not wait for ever: it goes, and
// those after it wait the longer. In the long run the rate is kept exactly; over a span of any
// length at most one burst and one request more than the rate go.
//
// What goes next is fair between connections in the time that each takes of the disk: a connection
// with many or large requests waiting delays one with few small ones by no more than a
// request of each other connection.
package core
