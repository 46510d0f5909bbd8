/**
 * The page of the service: what `npm run build` made of `console/`, at the service's own address, so that its cookie
 * and its API are of one origin.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { extname, join } from 'node:path'
import type { FastifyReply } from 'fastify'
import type { Surface } from '../service/surface.ts'

const typeOf: Readonly<Record<string, string>> = {
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
}

/** Addresses inside the page: what it shows there, it decides itself. */
const pages = ['/', '/sign-in', '/account', '/projects', '/projects/*'] as const

const headers = {
  // Nothing from elsewhere, no inline script, in no other page's frame.
  'content-security-policy': [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data:",
    "connect-src 'self'",
    "form-action 'self'",
    "base-uri 'none'",
    "frame-ancestors 'none'",
  ].join('; '),
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
} as const

const unbuilt = `<!doctype html><title>Ropeway</title>
<p>The page of this checkout was not built: <code>npm run build</code>. The command line works without it.</p>`

/** `folder` holds `index.html` and `assets/`; undefined in a checkout that was not built. */
export function consoleSurface(folder: string | undefined): Surface {
  // Read once: no request's path ever becomes a file's.
  const index = folder === undefined ? unbuilt : readFileSync(join(folder, 'index.html'))
  const assets = folder === undefined ? new Map<string, Buffer>() : assetsIn(join(folder, 'assets'))
  return (app) => {
    const hidden = { schema: { hide: true } as object }
    for (const page of pages) {
      app.get(page, hidden, async (_, reply) => {
        return await reply
          .headers({ ...headers, 'cache-control': 'no-cache', 'content-type': 'text/html; charset=utf-8' })
          .send(index)
      })
    }
    app.get<{ Params: { name: string } }>('/assets/:name', hidden, async ({ params: { name } }, reply) => {
      const asset = assets.get(name)
      return asset === undefined ? reply.callNotFound() : await sendAsset(reply, name, asset)
    })
  }
}

/** Its name has a hash of it: it never changes. */
async function sendAsset(reply: FastifyReply, name: string, content: Buffer): Promise<unknown> {
  const type = typeOf[extname(name)]!
  const cache = 'public, max-age=31536000, immutable'
  return await reply.headers({ ...headers, 'cache-control': cache, 'content-type': type }).send(content)
}

function assetsIn(folder: string): Map<string, Buffer> {
  const names = readdirSync(folder).filter((name) => extname(name) in typeOf)
  return new Map(names.map((name) => [name, readFileSync(join(folder, name))]))
}
