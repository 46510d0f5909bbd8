import type { FormEvent } from 'react'
import { changePassword } from '../../../src/api/control/people.ts'
import { UserError } from '../../../src/base/errors.ts'
import { service, useDeed } from '../service.ts'
import { Problem } from './problem.tsx'

/** Another password; the form alone holds both, and forgets them. */
export function PasswordForm() {
  const change = useDeed(
    async (form: HTMLFormElement) => {
      const given = new FormData(form)
      const text = (name: string) => String(given.get(name))
      if (text('new') !== text('again')) throw new UserError('The new password is not the same twice.')
      await service.call(changePassword, { body: { old: text('old'), new: text('new') } })
      form.reset()
    },
    ['sessions.'],
  )
  const send = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault()
    change.mutate(event.currentTarget)
  }
  return (
    <>
      <form onSubmit={send} className="row">
        <label>
          Password until now
          <input name="old" type="password" autoComplete="current-password" required />
        </label>
        <label>
          New password
          <input name="new" type="password" autoComplete="new-password" required />
        </label>
        <label>
          The new one again
          <input name="again" type="password" autoComplete="new-password" required />
        </label>
        <button type="submit" disabled={change.isPending}>
          Change
        </button>
      </form>
      <Problem error={change.error} />
      <p className="quiet" role="status">
        {change.isSuccess && 'It is changed, and you are signed out everywhere else.'}
      </p>
    </>
  )
}
