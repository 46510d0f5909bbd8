import pino, { type Logger } from 'pino'

export type { Logger }

/**
 * The process log: NDJSON on stderr, so that stdout stays data. Prompts, keys and tokens never go in;
 * the redaction here is the second line of defence, not the first.
 */
export function createLogger(name: string, level = process.env.ROPEWAY_LOG ?? 'info'): Logger {
  return pino(
    { name, level, redact: ['key', '*.key', 'authorization', '*.authorization', 'prompt', '*.prompt'] },
    pino.destination({ dest: 2, sync: true }),
  )
}
