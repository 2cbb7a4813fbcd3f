// Package rpc is the transport of the data path: requests and replies in binary
// frames over one connection, many in flight, answered in any order. PROTOCOL.md
// has the bytes.
//
// It knows no stores and no volumes: a message is an operation number, a head (small,
// decoded by the service) and a payload, which is read from the socket straight to
// where the service or the caller wants it. A Client owns one connection of one Class
// and makes it anew when it breaks; a Server accepts connections and hands their
// requests to the Service of their class.
//
// There is no goroutine and no allocation per request. Callers append frames to the
// connection's buffer, the first one writes for all; replies of requests answered
// while their burst is being read leave in one write. Nothing here blocks a caller:
// what the socket does not take is written by a goroutine of the connection.
//
// What it does not promise: that a request was or was not carried out when its
// connection broke or its time ran out. Nothing is ever sent twice by this package.
package rpc
