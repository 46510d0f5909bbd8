/** Log-in in a browser for a program: the browser brings a code to a port of this machine (RFC 8252, section 7.3). */
import { createHash, randomBytes } from 'node:crypto'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { apiRoot } from '../api/control/endpoint.ts'
import { startOidc } from '../api/control/oidc.ts'
import { UserError } from '../base/errors.ts'
import { note } from './terminal.ts'

/** How long a person may take at the provider's page; the service remembers a log-in for as long. */
const waitMs = 10 * 60_000

/** A code of the service at `url`, and the verifier that makes it worth something. Throws UserError when none comes. */
export async function codeByBrowser(url: string): Promise<{ code: string; verifier: string }> {
  const verifier = randomBytes(32).toString('base64url')
  const state = randomBytes(16).toString('base64url')
  const server = createServer()
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(0, '127.0.0.1', resolve)
  })
  try {
    const query = new URLSearchParams({
      redirect: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
      challenge: createHash('sha256').update(verifier).digest('base64url'),
      state,
    })
    note(
      `Open this address in your browser, on this machine:\n\n${url}${apiRoot}${startOidc.path}?${query}\n`,
    )
    return { code: await codeAt(server, state), verifier }
  } finally {
    server.closeAllConnections()
    server.close()
  }
}

function codeAt(server: Server, state: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const late = setTimeout(
      () => reject(new UserError('Nobody logged in within ten minutes.', { failure: 'timed_out' })),
      waitMs,
    )
    server.on('request', (request, response) => {
      const query = new URL(request.url ?? '/', 'http://127.0.0.1').searchParams
      // Other pages of the browser may ask this port too; they do not know the state.
      if (query.get('state') !== state) return response.writeHead(404).end()
      const code = query.get('code')
      const problem = query.get('error_description') ?? query.get('error')
      const said = code === null ? `Not logged in: ${problem}` : 'Logged in. You can close this page.'
      response.writeHead(200, { 'content-type': 'text/plain; charset=utf-8', connection: 'close' })
      // Only when the browser has its answer the server may go.
      response.end(`${said}\n`, () => {
        clearTimeout(late)
        if (code !== null) resolve(code)
        else reject(new UserError(problem ?? 'The provider gave no reason.', { failure: 'auth' }))
      })
      return response
    })
  })
}
