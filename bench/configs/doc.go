// Package configs keeps the documents of the daemons' configuration in step with the
// source: the reference and the example of each in deploy/config are made from its
// Config, and what ashlar dev writes must load. It is tests only.
package configs

//go:generate go test . -run TestDocuments -update
