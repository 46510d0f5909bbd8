import { assert } from '../base/assert.ts'
import type { BlockPool } from './blocks.ts'
import { type HeapItem, IndexedHeap } from './heap.ts'

/** A published block: these tokens, behind those of `parent`, are in `block`. */
export interface CacheNode {
  readonly block: number
  readonly parent: CacheNode | CacheRoot
  readonly hash: number
  readonly tokens: readonly number[]
  children: number
}

/** Where the chains of one scope begin: blocks are never found across scopes. */
export interface CacheRoot {
  readonly scope: string
  children: number
}

/** What the cache needs to know about a request. */
export interface CacheUser {
  readonly tokens: readonly number[]
  readonly scope: string
  blocks: number[]
  /** Published blocks at the head of `blocks`; a user holds a reference to each of them. */
  nodes: CacheNode[]
  blockHash(index: number): number
}

interface Pin extends HeapItem {
  readonly leaf: CacheNode
  readonly blocks: readonly number[]
  untilMs: number
}

/**
 * Finds computed prefixes again. Full blocks are published as they are computed; a chain of nodes, looked
 * up by hash and compared token by token, leads from the scope to the longest known prefix.
 *
 * Whoever holds a node holds all its ancestors, and holders give their blocks back last first. So a parent
 * is always younger in the eviction order than its children, and eviction takes leaves only.
 */
export class PrefixCache<User extends CacheUser> {
  readonly #pool: BlockPool
  readonly #blockTokens: number
  readonly #pinnedBlocksMax: number
  readonly #roots = new Map<string, CacheRoot>()
  readonly #byHash = new Map<number, CacheNode>()
  readonly #byBlock: (CacheNode | undefined)[]
  /** Who is computing the block with this hash right now. */
  readonly #producers = new Map<number, User>()
  readonly #pins = new IndexedHeap<Pin>((a, b) => a.untilMs < b.untilMs)
  readonly #pinByLeaf = new Map<CacheNode, Pin>()
  #pinnedBlocks = 0

  constructor(pool: BlockPool, blockTokens: number, pinnedBlocksMax = 0) {
    this.#pool = pool
    this.#blockTokens = blockTokens
    this.#pinnedBlocksMax = pinnedBlocksMax
    this.#byBlock = new Array(pool.blockCount)
    pool.onEvict = (block) => this.#forget(block)
  }

  /** Published blocks that continue what `user` has, within its first `tokensMax` tokens. Changes nothing. */
  match(user: User, tokensMax: number): CacheNode[] {
    const found: CacheNode[] = []
    let parent = user.nodes.at(-1) ?? this.#roots.get(user.scope)
    if (parent === undefined) return found
    for (let index = user.nodes.length; (index + 1) * this.#blockTokens <= tokensMax; index++) {
      const node = this.#byHash.get(user.blockHash(index))
      if (node === undefined || !this.#holdsBlock(node, parent, user, index)) break
      found.push(node)
      parent = node
    }
    return found
  }

  /** Gives `user` the blocks that {@link match} found. */
  adopt(user: User, found: readonly CacheNode[]): void {
    assert(user.blocks.length === user.nodes.length, 'found blocks continue published ones')
    for (const node of found) {
      this.#pool.share(node.block)
      user.blocks.push(node.block)
      user.nodes.push(node)
    }
  }

  /**
   * Publishes the full blocks among the first `computed` tokens. Where somebody published the same content
   * before, `user` changes over to that block, so that equal content is kept once.
   */
  publish(user: User, computed: number): void {
    for (let index = user.nodes.length; (index + 1) * this.#blockTokens <= computed; index++) {
      const hash = user.blockHash(index)
      const parent = user.nodes.at(-1) ?? this.#root(user.scope)
      const own = user.blocks[index]!
      let node = this.#byHash.get(hash)
      if (node === undefined) {
        const from = index * this.#blockTokens
        const tokens = user.tokens.slice(from, from + this.#blockTokens)
        node = { block: own, parent, hash, tokens, children: 0 }
        this.#byHash.set(hash, node)
        this.#byBlock[own] = node
        parent.children++
        this.#pool.publish(own)
      } else if (this.#holdsBlock(node, parent, user, index)) {
        this.#pool.share(node.block)
        user.blocks[index] = node.block
        this.#pool.give(own)
      } else {
        return // Another content with the same hash: this chain stays private from here on.
      }
      user.nodes.push(node)
      if (this.#producers.get(hash) === user) this.#producers.delete(hash)
    }
  }

  /** Gives all blocks back, last first. */
  release(user: User): void {
    this.withdraw(user)
    for (let index = user.blocks.length - 1; index >= 0; index--) this.#pool.give(user.blocks[index]!)
    user.blocks = []
    user.nodes = []
  }

  /** Tells others that `user` computes its full blocks up to `tokensMax` now, so that they can wait for them. */
  announce(user: User, tokensMax: number): void {
    for (let index = user.nodes.length; (index + 1) * this.#blockTokens <= tokensMax; index++) {
      const hash = user.blockHash(index)
      if (!this.#producers.has(hash)) this.#producers.set(hash, user)
    }
  }

  withdraw(user: User): void {
    if (this.#producers.size === 0) return
    const full = Math.floor(user.tokens.length / this.#blockTokens)
    for (let index = user.nodes.length; index < full; index++) {
      const hash = user.blockHash(index)
      if (this.#producers.get(hash) === user) this.#producers.delete(hash)
    }
  }

  /** Who is computing the next block that `user` needs, if its content is wanted within `tokensMax`. */
  producerFor(user: User, tokensMax: number): User | undefined {
    const index = user.nodes.length
    if ((index + 1) * this.#blockTokens > tokensMax) return undefined
    const producer = this.#producers.get(user.blockHash(index))
    return producer === user ? undefined : producer
  }

  /** How many tokens behind the `from` ones that `user` would have are being computed by others. */
  announcedBehind(user: User, from: number, tokensMax: number): number {
    let index = from / this.#blockTokens
    while ((index + 1) * this.#blockTokens <= tokensMax && this.#producers.has(user.blockHash(index))) index++
    return index * this.#blockTokens - from
  }

  /** Keeps the published blocks within the first `tokensMax` tokens until `untilMs`, room permitting. */
  pin(user: User, tokensMax: number, untilMs: number): boolean {
    const leaf = user.nodes[Math.floor(tokensMax / this.#blockTokens) - 1]
    if (leaf === undefined) return false
    const known = this.#pinByLeaf.get(leaf)
    if (known !== undefined) {
      known.untilMs = Math.max(known.untilMs, untilMs)
      this.#pins.update(known)
      return true
    }
    const blocks = user.blocks.slice(0, Math.floor(tokensMax / this.#blockTokens))
    if (this.#pinnedBlocks + blocks.length > this.#pinnedBlocksMax) return false
    for (const block of blocks) this.#pool.share(block)
    const pin = { leaf, blocks, untilMs, heapIndex: -1 }
    this.#pins.push(pin)
    this.#pinByLeaf.set(leaf, pin)
    this.#pinnedBlocks += blocks.length
    return true
  }

  get pinnedBlocks(): number {
    return this.#pinnedBlocks
  }

  expirePins(nowMs: number): void {
    for (let pin = this.#pins.peek(); pin !== undefined && pin.untilMs <= nowMs; pin = this.#pins.peek()) {
      this.#unpin(pin)
    }
  }

  /** Drops the pin that would expire first, for a request that cannot go on otherwise. False when there is none. */
  dropPin(): boolean {
    const pin = this.#pins.peek()
    if (pin !== undefined) this.#unpin(pin)
    return pin !== undefined
  }

  #unpin(pin: Pin): void {
    this.#pins.remove(pin)
    this.#pinByLeaf.delete(pin.leaf)
    this.#pinnedBlocks -= pin.blocks.length
    for (let i = pin.blocks.length - 1; i >= 0; i--) this.#pool.give(pin.blocks[i]!)
  }

  #root(scope: string): CacheRoot {
    let root = this.#roots.get(scope)
    if (root === undefined) this.#roots.set(scope, (root = { scope, children: 0 }))
    return root
  }

  #holdsBlock(node: CacheNode, parent: CacheNode | CacheRoot, user: User, index: number): boolean {
    if (node.parent !== parent) return false
    const from = index * this.#blockTokens
    return node.tokens.every((token, i) => user.tokens[from + i] === token)
  }

  #forget(block: number): void {
    const node = this.#byBlock[block]
    assert(node !== undefined && node.children === 0, 'eviction takes leaves of the prefix tree only')
    this.#byBlock[block] = undefined
    this.#byHash.delete(node.hash)
    node.parent.children--
    if ('scope' in node.parent && node.parent.children === 0) this.#roots.delete(node.parent.scope)
  }
}
