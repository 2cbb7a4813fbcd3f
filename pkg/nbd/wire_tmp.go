package nbd

// wireState is what the server keeps in a request.
type wireState struct{}
