// Package devcluster runs a whole cluster on one machine, the real daemons as child
// processes: what ashlar dev does. The first run on a folder chooses ports, makes the
// CA and the certificates and writes cluster.yaml; every run writes the daemons' config
// files anew from it, starts them, restarts what dies and ends them in order.
//
// The daemons are blackboxes here: a binary, a --config FILE, SIGTERM. No daemon's code
// is imported, and the config keys written (configs.go) are those documented for them.
//
// Children die with us whatever happens: each is killed by the kernel when the thread
// that started it ends (PR_SET_PDEATHSIG).
package devcluster
