/** The replica's process; see token-replica.ts. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { argv } from 'node:process'

interface Open {
  response: ServerResponse
  left: number
  asked: number
}

const paceMs = Number(argv[2])
const paced = new Set<Open>()

const chunk = (finish: string | null) =>
  `data: ${JSON.stringify({
    id: 'cmpl-0b6f5a52-6a3e-4b40-8b4b-1f4f3f0d2a11',
    object: 'text_completion',
    created: 1_700_000_000,
    model: 'paced',
    choices: [{ index: 0, text: ' word', logprobs: null, finish_reason: finish, ropeway_tokens: [4711] }],
    usage: null,
  })}\n\n`
const middle = chunk(null)
const last = chunk('length')

function usage(tokens: number): string {
  const counted = { prompt_tokens: 8, completion_tokens: tokens, total_tokens: tokens + 8 }
  return `data: ${JSON.stringify({ id: 'cmpl-0', choices: [], usage: counted })}\n\ndata: [DONE]\n\n`
}

/** One token more; whether the stream goes on. */
function step(open: Open): boolean {
  open.left--
  if (open.left > 0) return open.response.write(middle) || true
  open.response.write(last)
  open.response.end(usage(open.asked))
  return false
}

function run(open: Open): void {
  if (!open.response.destroyed && step(open)) setImmediate(run, open)
}

async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  if (request.method === 'GET') {
    response.end()
    return
  }
  const parts: Buffer[] = []
  for await (const part of request) parts.push(part as Buffer)
  const body = JSON.parse(Buffer.concat(parts).toString('utf8')) as { model: string; max_tokens: number }
  response.writeHead(200, { 'content-type': 'text/event-stream', 'x-ropeway-prompt-tokens': '8' })
  const open = { response, left: body.max_tokens, asked: body.max_tokens }
  if (body.model === 'fast') run(open)
  else paced.add(open)
  response.once('close', () => paced.delete(open))
}

const server = createServer((request, response) => void answer(request, response))
server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, () => {
  process.send?.(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
})
setInterval(() => {
  for (const open of paced) if (!step(open)) paced.delete(open)
}, paceMs)
process.on('disconnect', () => process.exit(0))
