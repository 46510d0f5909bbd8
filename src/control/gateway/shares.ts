import { deriveSeed, uniformAt } from '../../base/random.ts'
import type { Version } from './replicas.ts'

/**
 * The version that answers whoever is `sticky`: the same one every time while the shares stay, and when a
 * share grows, nobody moves but those who move to it (weighted rendezvous hashing: each version draws
 * -share / ln u, the greatest wins).
 */
export function versionFor(deployment: string, versions: readonly Version[], sticky: string): Version {
  const draw = ({ id, share }: Version) =>
    share <= 0 ? -1 : -share / Math.log(drawn(`${deployment}\0${id}\0${sticky}`))
  return versions.reduce((best, version) => (draw(version) > draw(best) ? version : best))
}

/** A number in (0, 1) that is a function of the text. */
function drawn(text: string): number {
  return Math.max(Number.EPSILON, uniformAt(deriveSeed(0, text), 0))
}
