// Package load is clients of a disk that go on whatever happens: each keeps a connection
// to one of the endpoints, does a seeded stream of reads, writes and zeroes with several
// in flight, connects anew, perhaps elsewhere, when the connection breaks or an answer
// does not come, and tells a history.Log what it did and saw.
//
// The seed fixes what a client asks for and in which order; when the answers come is the
// machine's business.
package load
