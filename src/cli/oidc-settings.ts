/** The OpenID provider of a service, as its operator describes it in a file. */
import { readFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { parse } from 'yaml'
import { z } from 'zod'
import { firstIssue } from '../api/issues.ts'
import { messageOf, UserError } from '../base/errors.ts'
import type { OidcSettings } from '../control/people/oidc-provider.ts'

const here = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/
const address = z
  .url({ protocol: /^https?$/ })
  .refine((url) => url.startsWith('https:') || here.test(new URL(url).hostname), {
    error: 'is to be https, or on this machine',
  })
  .transform((url) => url.replace(/\/+$/, ''))

const file = z.strictObject({
  issuer: address,
  client_id: z.string().min(1),
  client_secret_file: z.string().min(1).optional(),
  service_url: address,
  name: z.string().min(1).max(100).optional(),
  link_by_mail: z.boolean().default(false),
  sign_up: z.enum(['invited', 'anyone']).default('invited'),
})

/** Throws UserError when the file, or the one with the secret, cannot be read or says something else. */
export function oidcSettingsFrom(path: string): OidcSettings {
  const parsed = file.safeParse(parsedYaml(path))
  if (!parsed.success) {
    const { param, message } = firstIssue(parsed.error, file)
    throw new UserError(`${path}: ${param === undefined ? '' : `${param}: `}${message}`, {
      failure: 'usage',
      fix: 'It holds issuer, client_id, service_url and perhaps client_secret_file, name, link_by_mail, sign_up (docs/service.md).',
    })
  }
  const { issuer, client_id, client_secret_file, service_url, name, link_by_mail, sign_up } = parsed.data
  return {
    ...{ issuer, clientId: client_id, serviceUrl: service_url, linkByMail: link_by_mail, signUp: sign_up },
    name: name ?? new URL(issuer).host,
    ...(client_secret_file !== undefined && {
      clientSecret: textOf(resolve(dirname(path), client_secret_file)).trim(),
    }),
  }
}

function parsedYaml(path: string): unknown {
  try {
    return parse(textOf(path))
  } catch (error) {
    if (error instanceof UserError) throw error
    throw new UserError(`${path} is no YAML: ${messageOf(error)}`, { failure: 'usage', cause: error })
  }
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    throw new UserError(`${path} cannot be read: ${messageOf(error)}`, { failure: 'usage', cause: error })
  }
}
