package redirect

import "context"

type blobsKey struct{}

// KeepingBlobs makes redirects of blobs come back to who asked, who keeps
// their URLs for other requests.
func KeepingBlobs(ctx context.Context) context.Context {
	return context.WithValue(ctx, blobsKey{}, true)
}

func keepsBlobs(ctx context.Context) bool { return ctx.Value(blobsKey{}) != nil }

type upgradesKey struct{}

// KeepingUpgrades makes redirects from plain HTTP to the same by HTTPS come back to who asked,
// who then asks there with what the registry wants.
func KeepingUpgrades(ctx context.Context) context.Context {
	return context.WithValue(ctx, upgradesKey{}, true)
}

// FollowingUpgrades undoes that, for requests to others than the registry.
func FollowingUpgrades(ctx context.Context) context.Context {
	return context.WithValue(ctx, upgradesKey{}, nil)
}

func keepsUpgrades(ctx context.Context) bool { return ctx.Value(upgradesKey{}) != nil }
