import type { ReactNode } from 'react'

/** Names and values of one thing; those without a value are left out. */
export function Facts({ of }: { of: Readonly<Record<string, ReactNode>> }) {
  const given = Object.entries(of).filter(
    ([, value]) => value !== undefined && value !== null && value !== '' && value !== false,
  )
  return (
    <dl className="facts">
      {given.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  )
}
