package access

import "regexp"

// credentialPattern finds what looks like a credential: one of our tokens, a JWT (whose header is JSON in base64, so that it begins
// with one of few letters), and the rest of the word that it is in.
var credentialPattern = regexp.MustCompile(`actcore_[0-9A-Za-z][^\s"'<>]*|eyJ[A-Za-z0-9_-]{5}[^\s"'<>]*|e[yw][A-Za-z0-9_-]{8,}(?:\.|%2[Ee])[^\s"'<>]*`)

// Mask replaces what looks like a credential by three dots, for text that clients send and that is logged.
func Mask(text string) string {
	return credentialPattern.ReplaceAllString(text, "...")
}
