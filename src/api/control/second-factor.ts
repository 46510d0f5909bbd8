import { z } from 'zod'
import { endpoint } from './endpoint.ts'

/** Of an authenticator app. */
export const code = z.string().regex(/^\d{6}$/, 'A code has six digits.')

/** Stands in for a lost authenticator app, once. */
export const recoveryCode = z.string().min(1).max(100)

export const recoveryCodeCount = 10

/** They are shown here and never again. */
const recoveryCodes = z.object({ recovery_codes: z.array(z.string()) })

export const startTotp = endpoint({
  name: 'people.totp-start',
  method: 'POST',
  path: '/totp',
  summary: 'Get a secret for an authenticator app; it counts once a code of it was confirmed.',
  access: 'signed_in',
  body: z.strictObject({ password: z.string().max(1000) }),
  answer: z.object({ secret: z.string(), uri: z.string() }),
})

export const confirmTotp = endpoint({
  name: 'people.totp-confirm',
  method: 'POST',
  path: '/totp/confirm',
  summary: 'Give a first code: from now on log-ins need one, or one of the recovery codes in the answer.',
  access: 'signed_in',
  body: z.strictObject({ code }),
  answer: recoveryCodes,
})

export const renewRecoveryCodes = endpoint({
  name: 'people.recovery-codes',
  method: 'POST',
  path: '/totp/recovery-codes',
  summary: 'Get new recovery codes; the old ones no longer count.',
  access: 'signed_in',
  body: z.strictObject({ code }),
  answer: recoveryCodes,
})

export const removeTotp = endpoint({
  name: 'people.totp-remove',
  method: 'POST',
  path: '/totp/remove',
  summary: 'Log in without a second factor again; needs a code or a recovery code.',
  access: 'signed_in',
  body: z.strictObject({ code: code.optional(), recovery_code: recoveryCode.optional() }),
  answer: 'nothing',
})

export const resetSecondFactor = endpoint({
  name: 'organisation-members.reset-second-factor',
  method: 'DELETE',
  path: '/organisations/:organisation/members/:person/second-factor',
  summary: 'Take the second factor off a member who lost it; all of their sessions end.',
  access: 'organisation:edit',
  answer: 'nothing',
})
