// Package reach bounds where registries may lead. What a user names, registries and mirrors, may be
// anywhere. What those name in turn, by redirects, realms of token servers and the URLs of layers,
// is requested by whoever runs this program, from where that runs: a registry must not be able to
// have its network probed. So each request goes with a Trail of who has led to it, and the address is
// checked when it is dialled, after the name is resolved: no registry may lead closer than it is
// itself, and none to link-local or metadata addresses.
//
// Begin at Transports, the http.RoundTripper that holds to that. Trails go with a request's
// context, since http.Client stands between who knows the trail and who dials.
package reach
