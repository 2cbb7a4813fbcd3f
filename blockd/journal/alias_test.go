package journal

import "ashlar.dev/pkg/storeproto/core"

type (
	coreRow     = core.Row
	coreFencing = core.Fencing
	coreControl = core.Control
)
