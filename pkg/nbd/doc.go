// Package nbd serves and speaks the Network Block Device protocol.
package nbd
