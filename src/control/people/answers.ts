/** What people are told of themselves and of their sessions. */
import { sessionCookie } from '../service/authenticate.ts'
import type { PersonRow } from './people.ts'
import { sessionMs } from './sessions.ts'

export function sessionAnswer(
  { id, token, expiresAt }: { id: string; token: string; expiresAt: number },
  person: PersonRow,
) {
  return { token, session: id, expires_at: expiresAt, person: personView(person) }
}

export function personView({ id, email, name, created_at, is_operator, totp_confirmed }: PersonRow) {
  return { id, email, name, created_at, is_operator: is_operator === 1, second_factor: totp_confirmed === 1 }
}

export function sessionCookieOf(token: string, isSecure: boolean): string {
  const age = Math.floor(sessionMs / 1000)
  return `${sessionCookie}=${token}; Path=/; HttpOnly; SameSite=Strict; Max-Age=${age}${isSecure ? '; Secure' : ''}`
}
