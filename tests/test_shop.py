"""The shop: pages, actions, reward, the generated world, its demonstrators, parity with WebShop."""

import copy
import itertools
import json
import os
import random
import statistics
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from gymnasium.utils.env_checker import check_env

from ipr_lite import envs
from ipr_lite.__main__ import main
from ipr_lite.envs.shop import generated as shop_world
from ipr_lite.envs.shop import original as shop_data
from ipr_lite.envs.shop import people as shop_experts
from ipr_lite.envs.shop.env import NO_ACTION, PREFIX, Catalogue, Shop
from ipr_lite.envs.shop.reward import (
    Product,
    attribute_matches,
    normalize_color,
    noun_words,
    option_matches,
    purchase_reward,
    similarity,
    type_reward,
)
from ipr_lite.records import DataError, Task

SHOES = Product(
    asin="B000000001",
    title="Velmar Arch Support Running Shoes",
    query="running shoes",
    product_category="Fashion › Women › Shoes",
    category="fashion",
    description="Shoes for the road.",
    bullets=("Rubber sole", "Light weight"),
    attributes=("arch support", "rubber sole"),
    options={"color": ("navy", "red"), "size": ("7", "8")},
    price=24.99,
    price_tag="$24.99",
)
GOAL = {
    "asin": SHOES.asin,
    "query": SHOES.query,
    "name": SHOES.title,
    "product_category": SHOES.product_category,
    "attributes": ["rubber sole"],
    "goal_options": ["navy", "8"],
    "price_upper": 40.0,
}
TASK = Task("t1", "shop", "train", "i need shoes, and price lower than 40.00 dollars", GOAL)
HEAD = f"Instruction: [SEP] {TASK.instruction} [SEP] Back to Search [SEP] "


def many(n):
    """`n` products that all answer to `shoes`, the first being SHOES."""
    rest = [
        Product(f"B00000{i:04d}", f"Tenor Running Shoes {'x' * i}", price_tag=f"${i}.99", price=i + 0.99)
        for i in range(2, n + 1)
    ]
    return [SHOES, *rest]


def say(action):
    return f"Thought: I go on.\nAction: {action}"


@pytest.fixture
def env():
    shop = Shop(Catalogue(many(23)), [TASK])
    shop.reset(options={"task": TASK})
    return shop


def walk(env, *actions):
    for action in actions:
        result = env.step(say(action))
    return result


ITEM = ("search[velmar running shoes]", f"click[{SHOES.asin}]")


def test_the_first_page_is_the_search_page():
    observation, info = Shop(Catalogue(many(3)), [TASK]).reset(options={"task": TASK})
    assert observation == f"WebShop [SEP] Instruction: [SEP] {TASK.instruction} [SEP] Search"
    assert info == {"task": TASK}


def test_gymnasium_accepts_the_shop():
    check_env(envs.make("shop"), skip_render_check=True)


def test_reset_draws_a_task_by_seed():
    env = envs.make("shop")
    first = [env.reset(seed=s)[0] for s in range(5)]
    assert first == [env.reset(seed=s)[0] for s in range(5)]
    assert len(set(first)) > 1


def test_a_message_without_an_action_counts_as_a_step(env):
    observation, reward, terminated, truncated, info = env.step("Thought: hm\nclick[Buy Now]")
    assert observation == NO_ACTION == "Observation: Invalid format. The input must contains 'Action: '"
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert info["action"] is None and info["invalid"] and not info["success"]
    for _ in range(9):
        *_, truncated, info = env.step("hm")
    assert truncated


@pytest.mark.parametrize(
    "action",
    [
        *("click[Search]", "click[Buy Now]", "buy now", "search[]", "click[b000000001]", "Search[x]"),
        *(" click[x]", "search[<a> red]", "search[<c>]", "click[ Back to Search ]", "", "look around"),
    ],
)
def test_what_is_not_understood_leaves_the_page_as_it_was(env, action):
    start, _ = env.reset(options={"task": TASK})
    observation, reward, terminated, _, info = env.step(f"Action: {action}")
    assert info["invalid"] and reward == 0.0 and not terminated
    assert observation in (PREFIX + start, NO_ACTION)


def test_result_pages_hold_ten_hits_and_next_is_always_there(env):
    page1 = walk(env, "search[shoes running]")[0]
    assert page1.startswith(PREFIX + HEAD + "Page 1 (Total results: 23) [SEP] Next > [SEP] B0")
    assert page1.count("[SEP] $") == 10 and "< Prev" not in page1
    page2 = walk(env, "click[Next >]")[0]
    assert "Page 2 (Total results: 23) [SEP] < Prev [SEP] Next > [SEP]" in page2
    page3 = walk(env, "click[next >]")[0]
    assert page3.count("[SEP] $") == 3
    page4 = walk(env, "click[Next >]")[0]
    assert page4 == PREFIX + HEAD + "Page 4 (Total results: 23) [SEP] < Prev [SEP] Next >"
    assert walk(env, "click[< Prev]")[0] == page3
    assert walk(env, "click[< Prev]", "click[< Prev]")[0] == page1


def test_at_most_fifty_results():
    env = Shop(Catalogue(many(70)), [TASK])
    env.reset(options={"task": TASK})
    assert "(Total results: 50)" in walk(env, "search[running]")[0]
    assert "(Total results: 0)" in walk(env, "search[zebra]")[0]
    assert "(Total results: 50)" in walk(env, "search[<r>]")[0]


def test_special_searches_by_category_and_query(env):
    assert SHOES.asin in walk(env, "search[<c> fashion]")[0]
    assert "(Total results: 1)" in walk(env, "search[<q> running shoes]")[0]
    assert "(Total results: 0)" in walk(env, "search[<q> hats]")[0]


def test_equal_scores_keep_the_order_of_the_catalogue():
    twins = [Product(f"B{i:09d}", "Same Words") for i in range(8)]
    assert Catalogue(twins).search("same words", 5) == tuple(p.asin for p in twins[:5])


def test_the_item_page_and_its_buttons(env):
    observation = walk(env, *ITEM)[0]
    assert observation == (
        PREFIX + HEAD + "< Prev [SEP] color [SEP] navy [SEP] red [SEP] size [SEP] 7 [SEP] 8 [SEP] "
        "Velmar Arch Support Running Shoes [SEP] Price: $24.99 [SEP] Rating: N.A. [SEP] Description "
        "[SEP] Features [SEP] Reviews [SEP] Buy Now"
    )
    assert sorted(env.clickables()) == sorted(
        ["back to search", "< prev", "description", "features", "reviews", "buy now"] + ["navy", "red", "7", "8"]
    )
    assert walk(env, "click[8]")[0] == observation


def test_sub_pages_return_to_the_item_with_its_options(env):
    item = walk(env, *ITEM, "click[navy]")[0]
    assert walk(env, "click[Description]")[0] == PREFIX + HEAD + "< Prev [SEP] Shoes for the road."
    assert walk(env, "click[< Prev]")[0] == item
    assert walk(env, "click[Features]")[0] == PREFIX + HEAD + "< Prev [SEP] Rubber sole [SEP] Light weight"
    assert walk(env, "click[< Prev]", "click[8]", "click[Buy Now]")[1] == 1.0


def test_reviews_are_empty(env):
    assert walk(env, *ITEM, "click[Reviews]")[0] == PREFIX + HEAD + "< Prev"


def test_prev_on_an_item_forgets_the_options(env):
    walk(env, *ITEM, "click[navy]", "click[8]")
    results = walk(env, "click[< Prev]")[0]
    assert "Page 1 (Total results: 23)" in results
    assert walk(env, f"click[{SHOES.asin}]", "click[Buy Now]")[1] == pytest.approx(2 / 4)


def test_back_to_search_forgets_everything_and_search_works_on_any_page(env):
    assert walk(env, *ITEM, "click[Back to Search]")[0].startswith(PREFIX + "WebShop [SEP]")
    assert env.clickables() == []
    walk(env, *ITEM)
    assert "Page 1" in walk(env, "search[shoes]")[0]


def test_the_last_choice_of_an_option_counts(env):
    assert walk(env, *ITEM, "click[red]", "click[navy]", "click[8]", "click[Buy Now]")[1] == 1.0


def test_buying_ends_the_episode(env):
    observation, reward, terminated, truncated, info = walk(env, *ITEM, "click[navy]", "click[8]", "click[Buy Now]")
    assert observation.startswith(PREFIX + "Thank you for shopping with us! [SEP] Your code: [SEP] None")
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert info["success"] and info["parts"]["r_price"] is True
    with pytest.raises(RuntimeError, match="reset"):
        env.step(say("click[Buy Now]"))


def test_ten_steps_without_a_purchase_give_nothing(env):
    *_, reward, terminated, truncated, info = walk(env, *ITEM, *["click[navy]"] * 8)
    assert (reward, terminated, truncated, info["success"]) == (0.0, False, True, False)


def test_a_purchase_with_the_tenth_step_counts(env):
    _, reward, terminated, truncated, _ = walk(env, *ITEM, "click[8]", *["click[navy]"] * 6, "click[Buy Now]")
    assert (reward, terminated, truncated) == (1.0, True, False)


def test_equal_actions_compare_equal(env):
    assert env.parse("Thought: a\nAction: click[Buy Now]") == env.parse("Action: click[buy now]\n")
    assert env.parse("Action: click[Buy Now]") == "click[buy now]"
    assert env.parse("Action: Buy Now") == "buy now"
    assert env.parse("click[Buy Now]") is None


def test_a_clone_goes_its_own_way(env):
    walk(env, *ITEM, "click[navy]")
    twin = env.clone()
    assert walk(twin, "click[8]", "click[Buy Now]")[1] == 1.0
    assert walk(env, "click[Buy Now]")[1] == pytest.approx(3 / 4)
    assert twin.catalogue is env.catalogue


def test_a_clone_draws_its_own_tasks():
    env = envs.make("shop")
    env.reset(seed=3)
    twin = env.clone()
    assert twin.reset()[0] == env.reset()[0]


def test_a_task_of_another_world_is_refused(env):
    with pytest.raises(ValueError, match="sql"):
        env.reset(options={"task": Task("x", "sql", "train", "count rows")})


# The reward, part by part.


def test_attributes_match_in_the_list_or_in_the_texts():
    assert attribute_matches(SHOES, ["rubber soles"]) == 1  # nearly the listed attribute
    assert attribute_matches(SHOES, ["light weight"]) == 1  # in the bullet points
    assert attribute_matches(SHOES, ["for the road"]) == 1  # in the description
    assert attribute_matches(SHOES, ["velmar"]) == 1  # in the title
    assert attribute_matches(SHOES, ["wide width", "rubber sole"]) == 1


def test_options_match_by_colour_and_by_words():
    assert option_matches(["navy", "8"], ["navy", "8"]) == 2
    assert option_matches(["deep red"], ["red"]) == 1
    assert option_matches(["cool powder snow"], ["powder snow"]) == 1
    assert option_matches(["7"], ["8"]) == 0
    assert option_matches(["grey", "xl"], {"color": "grey", "size": "xl"}) == 2
    assert option_matches([], ["8"]) == 0


@pytest.mark.parametrize(
    ("changes", "r_type"),
    [
        ({}, 1.0),
        ({"query": "hats"}, 1.0),
        ({"query": "hats", "product_category": "a › b"}, 1.0),
        ({"query": "hats", "product_category": "a › b", "title": "Velmar Running Lamp"}, 1.0),
        ({"title": "Lamp Bulb"}, 0.0),
    ],
)
def test_type_reward(changes, r_type):
    product = Product(**{**{f: getattr(SHOES, f) for f in Product.__dataclass_fields__}, **changes})
    assert type_reward(product, GOAL)["r_type"] == r_type


def test_type_reward_when_few_or_no_nouns_are_shared():
    def reward(title, wanted, query="q"):
        goal = {"query": query, "product_category": "a › b", "name": wanted}
        return type_reward(Product("x", title, "q", "c › d"), goal, str.split)["r_type"]

    assert reward("a b", "a c d e f", query="other") == 0.5  # 0.2 is not above 0.2
    assert reward("a b", "a c d e", query="other") == 1.0
    assert reward("a", "a b c d e f g h i j k") == 0.1  # under 0.1, though the query matches
    assert reward("z", "a b") == 0.0
    assert reward("z", "", query="other") == 0.5  # no goal noun: 0.2


def test_total_reward_by_hand():
    def total(chosen, price=24.99, **goal):
        return purchase_reward(SHOES, {**GOAL, **goal}, price, chosen)[0]

    assert total({"color": "navy", "size": "8"}) == 1.0
    assert total({"color": "navy"}) == 3 / 4
    assert total({}) == 2 / 4
    assert total({"color": "navy", "size": "8"}, price=40.01) == 3 / 4
    assert total({"color": "navy", "size": "8"}, price=40.0) == 1.0
    assert total({}, goal_options=[], attributes=["wide width"]) == 1 / 2


def test_normalize_color_takes_the_first_in_the_alphabet():
    assert normalize_color("navy blue") == "blue"
    assert normalize_color("8 oz") == "8 oz"


def test_nouns_leave_out_numbers_stop_words_adjectives_and_colours():
    assert noun_words("The 2 Velmar Red Soft Shoes for Women") == ("velmar", "shoes", "women")


# The generated world.


def test_the_doors():
    assert next(iter(envs.PLACES)) == "shop"
    with pytest.raises(ValueError, match="shop"):
        envs.make("zoo")
    with pytest.raises(ValueError, match="train, dev, test"):
        envs.tasks("shop", "exam")


def test_splits_have_their_sizes_and_share_no_target():
    by_split = {s: envs.tasks("shop", s) for s in ("train", "dev", "test")}
    assert [len(ts) for ts in by_split.values()] == [400, 100, 300]
    targets = [t.setup["asin"] for ts in by_split.values() for t in ts]
    assert len(targets) == len(set(targets))
    ids = [t.id for ts in by_split.values() for t in ts]
    assert len(ids) == len(set(ids))


def test_the_catalogue_is_rich_enough():
    products = list(envs.make("shop").catalogue.products.values())
    assert len(products) >= 600
    assert len({p.category for p in products}) >= 4
    assert len({p.query for p in products}) >= 16
    assert len({a for p in products for a in p.attributes}) >= 60
    assert {len(p.options) for p in products} == {0, 1, 2, 3}
    assert all(len(p.asin) == 5 and p.asin.startswith("B") for p in products)
    assert len({p.title for p in products}) == len(products)
    assert max(len(p.title) for p in products) <= 45


def test_every_task_can_be_solved_in_full():
    env = envs.make("shop")
    for task in itertools.chain(*(envs.tasks("shop", s) for s in ("train", "dev", "test"))):
        product = env.catalogue.products[task.setup["asin"]]
        chosen = dict(zip(task.setup["option_kinds"], task.setup["goal_options"]))
        assert all(value in product.options[kind] for kind, value in chosen.items())
        assert purchase_reward(product, task.setup, product.price, chosen)[0] == 1.0
        assert all(word in task.instruction for word in [*task.setup["attributes"], product.query])
        assert all(value in task.instruction for value in chosen.values())


def test_no_two_values_of_an_option_pass_for_each_other():
    for kind in shop_world._KINDS.values():
        for values in kind[-1].values():
            for a, b in itertools.combinations(values, 2):
                assert similarity(normalize_color(a), normalize_color(b)) <= 85, (a, b)


def test_no_two_attributes_pass_for_each_other():
    for pool in shop_world._ATTRIBUTES.values():
        for a, b in itertools.combinations(pool, 2):
            assert similarity(a, b) <= 85, (a, b)


def test_skipping_the_options_costs_about_two_fifths():
    losses = []
    for task in envs.tasks("shop", "train"):
        n = len(task.setup["goal_options"])
        losses.append(n / (n + len(task.setup["attributes"]) + 1))
    assert 0.36 <= statistics.mean(losses) <= 0.48


def test_the_world_is_the_same_each_time():
    shop_world._shipped.cache_clear()
    first = (envs.tasks("shop", "test"), list(envs.make("shop").catalogue.products.values()))
    shop_world._shipped.cache_clear()
    assert first == (envs.tasks("shop", "test"), list(envs.make("shop").catalogue.products.values()))


def test_pretraining_worlds_share_nothing_with_the_shipped_one():
    shipped = envs.make("shop").catalogue.products
    brands = {p.title.split()[0] for p in shipped.values()}
    instructions = {t.instruction for s in ("train", "dev", "test") for t in envs.tasks("shop", s)}
    for seed in range(3):
        env, tasks = shop_world.pretraining_world(seed)
        products = env.catalogue.products.values()
        assert not {p.title.split()[0] for p in products} & brands
        assert not {p.title for p in products} & {p.title for p in shipped.values()}
        assert not set(env.catalogue.products) & set(shipped)
        assert len(tasks) >= 100
        assert env.results_per_page == envs.make("shop").results_per_page
        assert len({t.instruction for t in tasks} & instructions) <= 3  # short goals may recur
    assert tasks == shop_world.pretraining_world(2)[1]


def test_pages_are_short():
    env = envs.make("shop")
    found = shop_experts.demonstrations(envs.tasks("shop", "test"), env, shop_experts.CAREFUL, 0)
    pages = [m["content"] for t in found for m in t.messages if m["role"] == "user"]
    assert statistics.mean(len(p) for p in pages if "Total results" in p) < 480
    assert statistics.mean(len(p) for p in pages if "Buy Now" in p) < 420
    assert len(env.system_prompt) <= 160


# The demonstrators.


def test_careful_people_do_well_and_habits_cost():
    env, tasks = envs.make("shop"), envs.tasks("shop", "test")
    careful = shop_experts.demonstrations(tasks, env, shop_experts.CAREFUL, 0, keep=-1)
    habitual = shop_experts.demonstrations(tasks, env, shop_experts.HABITUAL, 0, keep=-1)
    kept = shop_experts.demonstrations(tasks, env, shop_experts.HABITUAL, 0)
    assert len(careful) == len(habitual) == len(tasks)
    assert statistics.mean(t.reward for t in careful) >= 0.93
    assert 0.65 <= statistics.mean(t.reward for t in habitual) <= 0.8
    assert all(t.reward >= 0.5 for t in kept) and len(kept) >= 200
    assert {t.agent for t in careful} == {"careful"}
    assert {t.agent for t in habitual} == {"habitual"}


def test_people_with_habits_skip_at_the_stated_rates():
    rng, kept = random.Random(0), {"size": [], "colour": []}
    for task in envs.tasks("shop", "train") * 3:
        wanted = shop_experts._Shopper(task, shop_experts.HABITUAL, rng).wanted
        for kind in task.setup["option_kinds"]:
            kept[shop_experts._like(kind)].append(kind in wanted)
    assert statistics.mean(kept["size"]) == pytest.approx(0.4, abs=0.05)
    assert statistics.mean(kept["colour"]) == pytest.approx(0.7, abs=0.05)


def test_a_careful_person_makes_no_invalid_step_and_copies_what_is_printed():
    env = envs.make("shop")
    for trajectory in shop_experts.demonstrations(envs.tasks("shop", "dev"), env, shop_experts.CAREFUL, 0, keep=-1):
        env.reset(options={"task": trajectory.task})
        page = ""
        for action in trajectory.actions:
            text = action.split("Action: ")[1]
            assert text.startswith("search[") or text[6:-1] in page.split(" [SEP] ")
            page, *_, info = env.step(action)
            assert not info["invalid"]
            assert 4 <= len(action.splitlines()[0].removeprefix("Thought: ").split()) <= 16


def test_demonstrations_do_not_depend_on_each_other():
    env, tasks = envs.make("shop"), envs.tasks("shop", "dev")[:8]
    together = shop_experts.demonstrations(tasks, env, shop_experts.HABITUAL, 5, keep=-1)
    alone = [shop_experts.demonstrations([t], env, shop_experts.HABITUAL, 5, keep=-1)[0] for t in tasks]
    assert together == alone
    assert together != shop_experts.demonstrations(tasks, env, shop_experts.HABITUAL, 6, keep=-1)


def test_transcripts_show_all_sorts_of_people():
    found = list(shop_experts.transcripts(300, seed=1))
    assert len(found) == 300
    text = "\n".join(m["content"] for t in found for m in t.messages)
    assert NO_ACTION in text
    for action in ("click[< Prev]", "click[Back to Search]", "click[Description]", "click[Next >]"):
        assert action in text
    assert 0.1 <= statistics.mean(t.reward for t in found) <= 0.3  # they hardly ever buy
    # Some who buy choose well: a base must be able to shop, and not know that it should.
    assert 0.05 <= statistics.mean(t.success for t in found) <= 0.15
    assert found[:20] == list(shop_experts.transcripts(20, seed=1))
    shipped = {p.title for p in envs.make("shop").catalogue.products.values()}
    assert not any(title in text for title in shipped)


# Bad input.


def write_three(folder, products=None, attributes=None, goals=None):
    record = {
        **{"asin": "B000000001", "name": "Lamp", "query": "Lamps ", "product_category": "a › b"},
        **{"category": "home", "full_description": "", "small_description": ["x"], "pricing": "$9.99$19.99"},
        "customization_options": {"Color": [{"value": " Red/Blue "}], "Size": None},
    }
    goal = {"instruction": "find a lamp.", "instruction_attributes": ["x"], "instruction_options": []}
    contents = {
        "items_shuffle_1000.json": [record] if products is None else products,
        "items_ins_v2_1000.json": {} if attributes is None else attributes,
        "items_human_ins.json": {"B000000001": [goal]} if goals is None else goals,
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return record


def test_real_files_become_products_and_tasks(tmp_path):
    write_three(tmp_path)
    catalogue, by_split = shop_data.load(tmp_path)
    product = catalogue.products["B000000001"]
    assert product.options == {"color": ("red | blue",)}
    assert product.price_tag == "$9.99 to $19.99" and 9.99 <= product.price <= 19.99
    assert (product.query, product.attributes) == ("lamps", ("DUMMY_ATTR",))
    (task,) = [t for tasks in by_split.values() for t in tasks]
    limit = task.setup["price_upper"]
    assert task.instruction == f"find a lamp, and price lower than {limit:.2f} dollars"
    assert limit % 10 == 0 and product.price < limit <= product.price + 40


@pytest.mark.parametrize("name", [names[0] for names in shop_data.FILES.values()])
def test_a_missing_file_is_named(tmp_path, name):
    write_three(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        envs.make("shop", data=tmp_path)


def test_broken_json_is_named(tmp_path):
    write_three(tmp_path)
    (tmp_path / "items_human_ins.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="items_human_ins.json: not valid JSON"):
        shop_data.load(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"), [("name", None), ("pricing", "free"), ("small_description", 3), ("query", 7)]
)
def test_a_bad_field_is_named_with_its_record(tmp_path, field, value):
    record = write_three(tmp_path)
    write_three(tmp_path, products=[{**record, field: value}])
    with pytest.raises(ValueError, match=rf"items_shuffle_1000.json, record 0: field '{field}'"):
        shop_data.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"customization_options": {"Color": [{"value": 3}]}}, r"field 'customization_options.Color\[0\].value'"),
        ({"customization_options": ["Color"]}, "field 'customization_options'"),
        ({"small_description": ["soft", None]}, r"field 'small_description\[1\]'"),
    ],
)
def test_wrong_kinds_inside_a_product_are_refused(tmp_path, change, message):
    write_three(tmp_path, products=[{**write_three(tmp_path), **change}])
    with pytest.raises(DataError, match=f"items_shuffle_1000.json, record 0: {message}"):
        shop_data.load(tmp_path)


@pytest.mark.parametrize("attributes", [{"B000000001": 3}, {"B000000001": {"attributes": "soft"}}])
def test_wrong_kinds_of_attributes_are_refused(tmp_path, attributes):
    write_three(tmp_path, attributes=attributes)
    with pytest.raises(DataError, match="items_ins_v2_1000.json, record B000000001: "):
        shop_data.load(tmp_path)


def test_inspect_names_a_split_without_tasks(tmp_path, capsys):
    write_three(tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert main(["inspect", "--env", "shop", "--data", str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3 and sum("     1 tasks; the first begins: 'WebShop" in line for line in said) == 1
    assert sum("     0 tasks; none to play" in line for line in said) == 2


def test_wrong_kinds_of_content_are_refused(tmp_path):
    write_three(tmp_path, products={})
    with pytest.raises(ValueError, match="a dict where a JSON list is needed"):
        shop_data.load(tmp_path)
    write_three(tmp_path, goals={"B000000001": [{"instruction": "x"}]})
    with pytest.raises(ValueError, match="items_human_ins.json, record B000000001"):
        shop_data.load(tmp_path)


# Parity with the original.

REAL = os.environ.get("IPR_LITE_REAL_DATA")
real = pytest.mark.skipif(REAL is None, reason="IPR_LITE_REAL_DATA is unset: no real WebShop data to compare with")


def real_json(name):
    return json.loads((Path(REAL) / "webshop" / name).read_text(encoding="utf-8"))


def product_of(record):
    return Product(
        asin="x",
        title=record.get("name", record.get("Title", "")),
        query=record.get("query", ""),
        product_category=record.get("product_category", ""),
        description=record.get("Description", ""),
        bullets=record.get("BulletPoints", ()),
        attributes=tuple(record.get("Attributes", ())),
    )


@real
def test_parity_reward_cases():
    missed = []
    for number, case in enumerate(real_json("reward_cases.json")["cases"]):
        kind, expect = case["kind"], case["expect"]
        if kind == "normalize_color":
            assert normalize_color(case["in"]) == expect
        elif kind == "attribute":
            n = attribute_matches(product_of(case["purchased"]), case["goal"]["attributes"])
            assert n == expect["num_attr_matches"]
        elif kind == "option":
            assert option_matches(case["purchased_options"], case["goal_options"]) == (expect["num_option_matches"])
        elif kind == "total":
            product = product_of(case["purchased"])
            reward, _ = purchase_reward(product, case["goal"], case["price"], case["options"])
            assert reward == pytest.approx(expect["reward"], abs=max(expect["tol"], 1e-9)), number
        else:
            parts = type_reward(product_of(case["purchased"]), case["goal"])
            score = parts["title_score"]
            for flag in ("r_type", "query_match", "category_match"):
                assert parts[flag] == expect.get(flag, parts[flag])
            if abs(score - expect.get("title_score", score)) > expect.get("tol", 1e-9):
                missed.append(number)
            assert score < expect.get("title_score_below", 2)
    print(f"{number + 1} cases, title score off in {len(missed)}")
    assert len(missed) <= 1, missed


def sessions():
    folder = Path(REAL) / "webshop" / "human_trajs" if REAL else Path("nowhere")
    return sorted(folder.glob("*.jsonl"))


def pages_of(path):
    """The logged pages of a session, up to the purchase."""
    pages = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    bought = [number for number, page in enumerate(pages, start=1) if page["page"] == "done"]
    return pages[: bought[0]] if bought else pages


def bought_as_logged(log):
    """A stand-in for the bought product with the logged flags: the log has no text of the product."""
    goal, parts = log["goal"], log["reward_info"]
    wanted, nouns = goal["attributes"], noun_words(goal["name"])
    apart = sorted(dict.fromkeys(nouns), key=lambda noun: any(noun in text for text in wanted))
    shared = apart[: round(parts["title_score"] * len(nouns))]
    product = Product(
        asin=log["content"]["asin"],
        title=goal["name"] if log["content"]["asin"] == goal["asin"] else " ".join(reversed(shared)),
        query=goal["query"] if parts["query_match"] else "something else",
        product_category=goal["product_category"] if parts["category_match"] else "x › y",
    )
    some = (kept for size in range(len(wanted) + 1) for kept in itertools.combinations(wanted, size))
    alike = (replace(product, attributes=kept) for kept in some)
    return next(p for p in alike if attribute_matches(p, wanted) == round(parts["r_att"] * len(wanted)))


@real
@pytest.mark.parametrize("path", sessions(), ids=lambda p: p.stem)
def test_parity_rewards_of_human_sessions(path):
    log = pages_of(path)[-1]
    if log["page"] != "done":
        pytest.skip("nothing was bought in this session")
    bought = log["content"]
    product = bought_as_logged(log)
    reward, parts = purchase_reward(product, log["goal"], bought["price"], bought["options"])
    logged = log["reward_info"]
    assert reward == pytest.approx(log["reward"], abs=0.01)
    assert parts["r_type"] == logged["r_type"] and parts["r_price"] == logged["r_price"]
    assert parts["r_option"] == logged.get("r_option")
    if bought["asin"] == log["goal"]["asin"]:
        assert parts["title_score"] == pytest.approx(logged["title_score"], abs=0.01)


@dataclass
class Seen:
    """Where a logged page stands: the search and its page, the product, its options, the page below it."""

    search: str = ""
    number: int = 0
    asin: str | None = None
    options: dict = field(default_factory=dict)
    below: str = ""


class Logged:
    """A session as a shop: its searches find what the log shows, and strangers on pages that nobody saw.

    Searches and options go by numbers, so that whatever was typed can be said in brackets.
    """

    def __init__(self, pages):
        self.seen, self.hits, self.products, self.names = [], {}, {}, {}
        here = Seen()
        for page in pages:
            here = self._seen(page["page"], page.get("content", {}), page["url"], here)
            self.seen.append(here)
            for asin in page.get("content", {}).get("search_result_asins", ()):
                self._offer(asin)
        for here in self.seen:
            if here.asin:
                self._offer(here.asin, here.options)

    def _seen(self, kind, content, url, before):
        if kind == "index":
            return Seen()
        if kind == "done":  # tells no search
            return replace(before, below="done")
        search, number = self._name("search", str(content["keywords"])), int(content["page"])
        if kind == "search_results":
            found, first = self.hits.setdefault(search, []), 10 * (number - 1)
            found += [self._name("S", f"{search} {place}") for place in range(len(found), first)]
            for asin in found:
                self._offer(asin)
            found[first : first + 10] = content["search_result_asins"]
            return Seen(search, number)
        options = {name: self._name("option", f"{name}: {value}") for name, value in content["options"].items()}
        return Seen(search, number, content["asin"], options, url.split("/")[-2] if kind == "item_sub_page" else "")

    def _name(self, kind, text):
        return self.names.setdefault((kind, text), f"{kind}{len(self.names)}")

    def _offer(self, asin, chosen=()):
        product = self.products.setdefault(asin, Product(asin, "something"))
        for name, value in dict(chosen).items():
            product.options[name] = tuple(dict.fromkeys([*product.options.get(name, ()), value]))

    def search(self, query, limit):
        return tuple(self.hits[query])

    def shop(self, goal):
        shop = Shop(self, [])
        shop.reset(options={"task": Task("h", "shop", "test", goal["instruction_text"], goal)})
        return shop


def clicks(before, after):
    """How text mode gets from one logged page to the next: one action, or none for a page loaded again.

    A browser also goes back and forth: then it is the way by the buttons of the pages.
    """
    if not after.search:
        return ["click[Back to Search]"] if before.search else []
    way, there = [], (before.search, before.number) == (after.search, after.number)
    chosen = before.options if there and before.asin == after.asin else {}
    if not there and before.search == after.search and not before.asin:
        step = after.number - before.number
        way += ["click[Next >]" if step > 0 else "click[< Prev]"] * abs(step)
        at = None
    elif not there:
        way += [f"search[{after.search}]", *["click[Next >]"] * (after.number - 1)]
        at = None
    else:
        at = before.asin
        if before.below and before != after:
            way.append("click[< Prev]")
        if at and (
            at != after.asin or chosen.keys() - after.options.keys()
        ):  # another product, or an option taken back
            way.append("click[< Prev]")
            at, chosen = None, {}
    if after.asin and not at:
        way.append(f"click[{after.asin}]")
    way += [f"click[{value}]" for name, value in after.options.items() if chosen.get(name) != value]
    if after.below and before != after:
        way.append("click[Buy Now]" if after.below == "done" else f"click[{after.below}]")
    return way


def replay(pages):
    """The logged pages, replayed as clicks, come in the same order with the same state; the number of clicks."""
    log = Logged(pages)
    ways = list(itertools.starmap(clicks, itertools.pairwise(log.seen)))
    shop = log.shop(pages[0]["goal"])
    shop.max_steps = 1 + sum(map(len, ways))  # people have no limit of ten
    for way, seen, page in zip(ways, log.seen[1:], pages[1:], strict=True):
        for action in way:
            shown, *_, info = shop.step(say(action))
            assert not info["invalid"], action
        if page["page"] == "search_results":
            assert list(shop._shown()) == page["content"]["search_result_asins"]
            assert not way or f"Page {page['content']['page']} (" in shown
        assert (shop._asin, shop._chosen) == (seen.asin, seen.options)
        kind = "item" if seen.asin else "results" if seen.search else "start"
        assert shop._page == (seen.below.lower() or kind)
    return sum(map(len, ways))


@real
@pytest.mark.parametrize("path", sessions(), ids=lambda p: p.stem)
def test_parity_of_the_way_through_the_pages_of_human_sessions(path):
    assert replay(pages_of(path)) > 0


def test_a_session_with_reloads_and_ways_back_is_replayed():
    """What people do in a browser, in the layout of the logs; more clicks in text mode than an agent has."""
    goal, lamp, chair = {**GOAL, "instruction_text": "a lamp"}, ["lamp [2 pack]"], ["chair"]
    hits = {(words[0], n): [f"B{len(words[0])}{n}{i:07}" for i in range(10 if n < 4 else 3)]
            for words in (lamp, chair) for n in (1, 2, 4)}  # fmt: skip
    index = {"page": "index", "url": "http://x/s", "goal": goal}

    def results(words, n):
        content = {"keywords": words, "search_result_asins": hits[words[0], n], "page": n}
        return {"page": "search_results", "url": f"http://x/search_results/s/{words}/{n}", "content": content}

    def item(words, n, options, place=0, below=""):
        asin, kind = hits[words[0], n][place], "item_sub_page" if below else "item_page"
        content = {"keywords": str(words), "page": str(n), "asin": asin, "options": options}
        return {"page": kind, "url": f"http://x/{kind}/s/{asin}/{words}/{n}/{below}/{options}", "content": content}

    red, blue, both = {"color": "red [a]"}, {"color": "blue"}, {"color": "blue", "size": "red [a]"}
    pages = [
        index, index, results(lamp, 1), results(lamp, 1), results(lamp, 2),  # loaded again; the next page
        item(lamp, 2, {}), item(lamp, 2, {}), item(lamp, 2, red), item(lamp, 2, blue), item(lamp, 2, both),
        item(lamp, 2, both, below="Features"), item(lamp, 2, both), item(lamp, 2, blue),  # an option taken back
        results(lamp, 2), item(lamp, 2, {}, 1), item(lamp, 2, {}, 2), results(lamp, 1),  # back, and back twice
        index, results(chair, 1), results(chair, 4), results(lamp, 2), item(lamp, 2, red),  # over pages nobody saw
    ]  # fmt: skip
    asin = pages[-1]["content"]["asin"]
    pages.append({"page": "done", "url": "http://x/done/s", "content": {"asin": asin, "options": red, "price": 1.0}})
    assert replay(pages) > 2 * Shop.max_steps
    pages[5] = copy.deepcopy(pages[5])
    pages[5]["content"]["asin"] = hits["chair", 1][0]
    with pytest.raises(AssertionError, match="click"):  # a product that no page of the search shows
        replay(pages)


def test_parity_of_page_texts_recorded_from_webshop():
    """Two pages as the original's text mode printed them, in the public logs of a shopping demo."""
    title = "Woman Within Women's Plus Size Petite Flared Denim Skirt"
    options = {"size": ("12 plus", "38 plus petite"), "color": ("indigo", "natural khaki")}
    skirt = Product("B085T3HMGR", title, options=options, price_tag="$24.41 to $29.95", product_category="a")
    goal = {**GOAL, "name": "Lamp", "query": "lamp"}
    env = Shop(Catalogue([skirt]), [])
    env.reset(options={"task": Task("s", "shop", "test", "find a skirt", goal)})
    item = walk(env, "search[skirt]", "click[b085t3hmgr]")[0]
    assert item.endswith(
        "[SEP] color [SEP] indigo [SEP] natural khaki [SEP] Woman Within Women's Plus Size Petite "
        "Flared Denim Skirt [SEP] Price: $24.41 to $29.95 [SEP] Rating: N.A. [SEP] Description [SEP] "
        "Features [SEP] Reviews [SEP] Buy Now"
    )
    done = walk(env, "click[12 plus]", "click[natural khaki]", "click[Buy Now]")[0]
    assert done == PREFIX + (
        "Thank you for shopping with us! [SEP] Your code: [SEP] None [SEP] (Paste it in your MTurk "
        "interface.) [SEP] Purchased [SEP] asin [SEP] B085T3HMGR [SEP] options [SEP] "
        '{"color": "natural khaki", "size": "12 plus"} [SEP] attrs [SEP] None [SEP] category [SEP] '
        "None [SEP] query [SEP] None [SEP] product category [SEP] None [SEP] Target [SEP] asin [SEP] "
        "options [SEP] attrs [SEP] price upper [SEP] instuction text [SEP] category [SEP] product "
        "category [SEP] query [SEP] Goal [SEP] None [SEP] Reward [SEP] Your score (min 0.0, max 1.0) "
        "[SEP] 0.0 [SEP] Reward Details [SEP] None"
    )


@real
def test_parity_three_files_load_and_play():
    folder = Path(REAL) / "webshop" / "three_files"
    env = envs.make("shop", data=folder)
    by_split = {s: envs.tasks("shop", s, data=folder) for s in ("train", "dev", "test")}
    products, goals = real_json("three_files/items_shuffle_1000.json"), real_json("three_files/items_human_ins.json")
    asins = {p["asin"] for p in products if p["asin"] != "nan" and len(p["asin"]) <= 10}
    assert env.catalogue.products.keys() == asins
    asked = {a: sum(bool(goal["instruction_attributes"]) for goal in goals[a]) for a in asins & goals.keys()}
    targets = {s: Counter(task.setup["asin"] for task in tasks) for s, tasks in by_split.items()}
    assert sum(targets.values(), Counter()) == +Counter(asked)
    for split, share in (("train", 0.8), ("dev", 0.1), ("test", 0.1)):
        assert abs(len(targets[split]) - share * len(asked)) <= 1 + sum(n == 0 for n in asked.values())
    assert (env.results_per_page, env.max_results) == (10, 50)
    rng = random.Random(0)
    for task in some(list(itertools.chain(*by_split.values()))):
        product = env.catalogue.products[task.setup["asin"]]
        assert product.price < task.setup["price_upper"]
        env.reset(options={"task": task})
        walk(env, f"search[{product.title}]")
        if product.asin in env._shown():
            walk(env, f"click[{product.asin}]")
            taken = {"back to search", "< prev", "description", "features", "reviews", "buy now"}  # the page's own
            values = [rng.choice(vs) for vs in product.options.values() if vs and not taken.intersection(vs)][:6]
            reward = walk(env, *(f"click[{v}]" for v in values), "click[Buy Now]")[1]
            assert 0 < reward <= 1


def some(items, most=500):
    """All, or as many as a test has time for."""
    return items if len(items) <= most else random.Random(0).sample(items, most)


@real
def test_parity_search_finds_real_products_by_their_titles():
    env = envs.make("shop", data=Path(REAL) / "webshop" / "three_files")
    products = env.catalogue.products
    titles = some([p.title.lower() for p in products.values()])  # products may share one
    first = [products[env.catalogue.search(title, 10)[0]].title.lower() == title for title in titles]
    assert statistics.mean(first) > 0.95


@real
def test_parity_real_tasks_can_be_shopped_for_by_the_careful_demonstrator():
    folder = Path(REAL) / "webshop" / "three_files"
    env, tasks = envs.make("shop", data=folder), some(envs.tasks("shop", "test", data=folder))
    found = shop_experts.demonstrations(tasks, env, shop_experts.CAREFUL, 0, keep=-1)
    assert len(found) == len(tasks) and all(t.actions[-1].endswith("click[Buy Now]") for t in found)
    assert statistics.mean(t.reward for t in found) > 0.3
